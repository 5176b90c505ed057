"""Files with a share of the labels."""

from lab.label_shares import few_images


def test_fewer_images_are_among_more_and_keep_their_annotations():
    images = [{"id": i} for i in range(40)]
    annotations = [{"id": i, "image_id": i % 40} for i in range(100)]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1}]}
    tenth, half = few_images(content, 0.1), few_images(content, 0.5)
    ids = [{image["id"] for image in part["images"]} for part in (tenth, half)]
    assert len(ids[0]) == 4 and len(ids[1]) == 20 and ids[0] < ids[1]
    assert tenth["annotations"] == [entry for entry in annotations if entry["image_id"] in ids[0]]
    assert tenth["categories"] == content["categories"] and len(few_images(content, 1e-6)["images"]) == 1
