from cropfield.commands import in_words


def test_a_detector_that_finds_nothing_has_no_ap():
    assert in_words(12.345) == "12.35" and "nothing was detected" in in_words(None)
