"""The ids of images in a file of predictions: the dataset's own where the image is the dataset's."""

from pathlib import PurePath


class ImageIds:
    """Gives each image an id, once.

    An image is a dataset's when its path ends with one of the dataset's file names, and its size is the one given
    there; of several such names the longest counts. Others get new numbers.

    entries: `images` of a COCO file.
    """

    def __init__(self, entries: list[dict]):
        self.entries: dict[tuple, list[dict]] = {}
        for entry in entries:
            self.entries.setdefault(PurePath(entry["file_name"]).parts, []).append(entry)
        self.longest = max(map(len, self.entries), default=0)
        self.taken = {str(entry["id"]) for entry in entries}
        self.next = 1

    def take(self, name: str, height: int, width: int) -> int | str:
        """The id of the image at path `name`, height x width pixels upright."""
        parts = PurePath(name).parts
        for count in range(min(self.longest, len(parts)), 0, -1):
            for entry in self.entries.get(parts[-count:], ()):
                if (entry["height"], entry["width"]) == (height, width):
                    self.entries[parts[-count:]].remove(entry)  # a second such image is another one
                    return entry["id"]
        while str(self.next) in self.taken:
            self.next += 1
        self.taken.add(str(self.next))
        return self.next
