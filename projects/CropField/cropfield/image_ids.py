"""Image ids in a predictions file: the dataset's own for its images, new numbers for all others."""

from pathlib import PurePath


class ImageIds:
    """Assigns an id to each image; each of the dataset's ids is used once.

    An image belongs to the dataset if its path ends with one of the dataset's file names and its size matches; the
    longest such name wins. All others get new numbers.

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
        """The id of the image at path `name`, with upright `height` and `width`."""
        parts = PurePath(name).parts
        for count in range(min(self.longest, len(parts)), 0, -1):
            for entry in self.entries.get(parts[-count:], ()):
                if (entry["height"], entry["width"]) == (height, width):
                    self.entries[parts[-count:]].remove(entry)  # a second match is a different image
                    return entry["id"]
        while str(self.next) in self.taken:
            self.next += 1
        self.taken.add(str(self.next))
        return self.next
