import numpy as np

from lab.semantic.pictures import class_color, draw_labels, side_by_side


def test_150_classes_have_150_colours():
    assert len({class_color(label) for label in range(150)}) == 150


def test_a_pixel_has_its_classs_colour_over_grey():
    image = np.full((4, 6, 3), (100, 50, 0), np.uint8)
    labels = np.array([[0, 1, 2, 255, 0, 0]] * 4)
    drawn = draw_labels(image, labels, share=1.0)
    assert [tuple(drawn[0, x]) for x in range(4)] == [class_color(0), class_color(1), class_color(2), (0, 0, 0)]
    half = draw_labels(image, labels, background=True, share=0.5)
    assert tuple(half[0, 0]) == (50, 50, 50)
    np.testing.assert_array_equal(half[0, 1], np.rint((np.array(class_color(1)) + 50) / 2))


def test_the_grid_holds_every_tile_and_names_what_occurs():
    tiles = [np.full((40, 60, 3), 10 * i, np.uint8) for i in range(6)]
    names = {i: f"class {i}" for i in range(5)}
    drawn = side_by_side([tiles[:3], tiles[3:]], ["image", "truth", "found"], names)
    assert drawn.shape[1] == 3 * 60 + 2 * 8
    for i in range(6):
        place = (24 + 8 + (40 + 8) * (i // 3) + 20, (60 + 8) * (i % 3) + 30)
        assert (drawn[place] == 10 * i).all()
    assert drawn.shape[0] > side_by_side([tiles[:3], tiles[3:]], ["a", "b", "c"], {0: "one"}).shape[0]
