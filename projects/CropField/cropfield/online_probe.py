"""Detection probe during pretraining: logs metrics, keeps the best backbone, and optionally stops early."""

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
from detectron2.engine import HookBase
from detectron2.utils import comm

from cropfield.probe import FIGURES, DetectionProbe, backbone_features, evaluating, positions_and_colours
from cropfield.probe_images import PixelFormat, check_probe_files, probe_images, tell_of_shared_images
from pretrain.data import pixel_statistics_of
from pretrain.data.reading import AS_RGB
from pretrain.engine.checkpoint import BEST, backbone_metadata
from pretrain.engine.loop import due
from pretrain.errors import UserError
from pretrain.files import write_json
from pretrain.models.weights import write_backbone
from pretrain.ranges import BatchSize, Count, Layers, Pixels, Whole

RECORD = "detection_probe.json"

logger = logging.getLogger(__name__)


class OnlineDetectionProbe(HookBase):
    """Log `probe/*` (`DetectionProbe.measure`) of the teacher's backbone every `period` steps and after the last one.

    All values are in detection_probe.json in the output folder, together with two baselines: the backbone before the
    first step, and positions and colours alone. The best backbone is best_detection.pth, which a detector's
    train.init_checkpoint accepts and which is far smaller than a training state.

    Args:
        train_json, train_images, val_json, val_images: two COCO-format datasets; without any of them the hook is off.
        output_dir: the run's output folder.
        period: steps between probes; 0 turns the hook off.
        image_size: longer side in pixels; larger than a crop, as in detection.
        train_limit, val_limit: most images to use, evenly spaced through the files.
        layers, batch_size: see `backbone_features` and `DetectionProbe`.
        metric: selects the best backbone. Where all objects are of one class, object_knn is always 100 and box_ap50
            takes its place.
        patience: end the run after this many probes without a better value; 0: never.

    Raises:
        UserError: before the first step, if the datasets are unsuitable; see `probe_images`.
    """

    def __init__(
        self,
        train_json: str,
        train_images: str,
        val_json: str,
        val_images: str,
        output_dir: str,
        period: Whole = 1000,
        image_size: Pixels = 256,
        train_limit: Count = 300,
        val_limit: Count = 100,
        layers: Layers = 1,
        batch_size: BatchSize = 16,
        metric: Literal[
            "box_ap", "box_ap50", "patch_box_iou", "patch_class_accuracy", "object_knn", "object_rank"
        ] = "object_knn",
        patience: Whole = 0,
    ):
        files = dict(train_json=train_json, train_images=train_images, val_json=val_json, val_images=val_images)
        absent = [name for name, value in files.items() if not value]
        if 0 < len(absent) < len(files):
            raise UserError(f"train.detection_probe needs two datasets: give train.detection_probe.{absent[0]} too")
        self.period = 0 if absent else period
        self.train, self.val = (train_json, train_images), (val_json, val_images)
        if self.period:  # what can be refused before the run has a model
            check_probe_files(train_json, val_json)
        self.limits, self.image_size, self.layers, self.batch_size = (
            (train_limit, val_limit),
            image_size,
            layers,
            batch_size,
        )
        self.metric, self.patience, self.folder = metric, patience, Path(output_dir)
        self.settings = files | dict(image_size=image_size, limits=[train_limit, val_limit], layers=layers)
        self.settings |= dict(metric=metric, contents=None)  # both are settled when the run begins

    def before_train(self) -> None:
        if not self.period:
            return
        model, done = self.trainer.model, self.trainer.iter
        backbone, source = model.backbone, self.trainer.loader.source
        mean, std = pixel_statistics_of(model)
        pixels = PixelFormat(mean, std, replace(getattr(source, "reading", AS_RGB), channels=len(mean)))
        images = probe_images(self.train, self.val, self.limits, self.image_size, backbone.patch_size, pixels)
        self.probe = DetectionProbe(*images, self.batch_size)
        shown = np.setdiff1d(np.concatenate(images[1].classes), self.probe.num_classes)
        if self.metric == "object_knn" and len(shown) == 1:
            logger.info(f"detection probe: {self.val[0]} shows one class; {BEST} will be the best by box_ap50")
            self.metric = "box_ap50"
        self.settings |= dict(metric=self.metric, contents=[part.digest for part in images])
        if comm.is_main_process():
            tell_of_shared_images(images[0].contents | images[1].contents, self.trainer.loader.source)
        self.record = comm.all_gather(self.read_record(done))[0]
        if done == 0:
            lower_line = self.probe.measure(positions_and_colours(backbone.patch_size))
            self.record |= {"lower_line": lower_line, "start": self.measure()}
            self.log("before the first step", self.record["start"])
            self.write_record()
        elif self.is_due(done) and done not in map(self.step_of, self.record["probes"]):
            self.look(done)  # the run was interrupted between checkpoint and probe
        self.stop_in_time(done)

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if self.period and self.is_due(done):
            self.look(done)
            self.stop_in_time(done)
            if done == self.trainer.max_iter:
                self.tell_of_no_gain()

    def is_due(self, done: int) -> bool:
        return due(done, self.period) or done == self.trainer.max_iter

    def step_of(self, probe: dict) -> int:
        """After how many steps of the run's batch size it was made; older records have no number of images."""
        return probe["images"] // self.trainer.loader.batch_size if "images" in probe else probe["step"]

    def look(self, done: int) -> None:
        """Probe the backbone after `done` steps; if an image cannot be read, only this probe is skipped."""
        try:
            figures = self.measure()
        except UserError as error:
            logger.warning(f"step {done}: {error}; there is no value of this step")
            return
        best = self.best()
        self.record["probes"].append({"step": done, "images": done * self.trainer.loader.batch_size, **figures})
        self.log(f"after {done:,} step{'s' * (done != 1)}", figures)
        if best is None or figures[self.metric] > best[self.metric]:
            self.keep_best(done, figures)  # first: a run interrupted between the two files writes both again
        self.write_record()

    def measure(self) -> dict[str, float]:
        backbone = self.trainer.model.backbone
        with evaluating(backbone):
            return self.probe.measure(backbone_features(backbone, self.layers, self.trainer.amp))

    def log(self, when: str, figures: dict[str, float]) -> None:
        self.trainer.storage.put_scalars(
            **{f"probe/{name}": value for name, value in figures.items()}, smoothing_hint=False
        )
        start = {} if figures is self.record["start"] else self.record["start"] or {}
        beside = {name: f" (start {value:.2f})" for name, value in start.items()}
        shown = [f"{words} {figures[name]:.2f}{beside.get(name, '')}" for name, words in FIGURES]
        logger.info(f"detection probe {when}: {', '.join(shown)}")

    def best(self) -> dict | None:
        """The first probe that reached the best value."""
        return max(self.record["probes"], key=lambda probe: probe[self.metric], default=None)

    def stop_in_time(self, done: int) -> None:
        best, probes = self.best(), self.record["probes"]
        waited = len(probes) - 1 - probes.index(best) if best else 0
        if self.patience and waited >= self.patience:
            logger.info(
                f"detection probe: {waited} probe{'s' * (waited != 1)} without a value above {self.metric} "
                f"{best[self.metric]:.2f} of step {best['step']:,}: the run ends here; that backbone is "
                f"{self.best_file()}"
            )
            self.trainer.stop(done)

    def tell_of_no_gain(self) -> None:
        start, best = self.record["start"], self.best()
        if start and best and best[self.metric] <= start[self.metric]:
            logger.warning(
                f"detection probe: none has risen above {self.metric} {start[self.metric]:.2f} of the backbone before "
                f"the first step; the best of those after it, {best[self.metric]:.2f}, is {self.best_file()}"
            )

    def best_file(self) -> str:
        path = self.folder / BEST
        return str(path) if path.exists() else f"gone ({path} was moved or removed)"

    def keep_best(self, done: int, figures: dict[str, float]) -> None:
        if comm.is_main_process():
            model = self.trainer.model
            figure = {f"probe/{self.metric}": f"{figures[self.metric]:.4f}"}
            write_backbone(self.folder / BEST, model.backbone.state_dict(), backbone_metadata(model, done) | figure)

    def write_record(self) -> None:
        if comm.is_main_process():
            write_json(self.folder / RECORD, self.record)

    def read_record(self, done: int) -> dict:
        """Probes of the run's first `done` steps; a resumed run repeats later ones.

        Raises:
            UserError: the record is damaged, is of other images or settings, or is missing beside a best backbone.
        """
        empty = {"settings": self.settings, "lower_line": None, "start": None, "probes": []}
        path, best = self.folder / RECORD, self.folder / BEST
        anew = f"move {RECORD} and {BEST} out of the folder to begin anew"
        if not path.is_file() and best.exists():
            raise UserError(f"{best} is of a probe whose {RECORD} is missing; put it back, or {anew}")
        if not path.is_file():
            return empty
        try:
            record = json.loads(path.read_text())
            if other := self.other_settings(record["settings"]):
                raise UserError(f"{path} is of a probe with {other}; go on with the former, or {anew}")
            for figures in (*filter(None, (record["start"], record["lower_line"])), *record["probes"]):
                # an older record may lack another figure than the metric
                [float(value) for value in (figures[self.metric], *figures.values())]
            probes = [probe for probe in record["probes"] if self.step_of(probe) <= done]
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(f"{path} is damaged ({error}); put a good one back, or {anew}") from None
        return record | {"settings": self.settings, "probes": probes}

    def other_settings(self, recorded: dict) -> str:
        """How a record's settings differ from this probe's, in words; "" if they do not. Files may have been moved."""
        contents = self.settings["contents"]
        if recorded.get("contents", contents) != contents:  # older records have none
            return "other images or annotations"
        changed = [name for name in ("image_size", "layers", "metric") if recorded.get(name) != self.settings[name]]
        return f"{changed[0]} {recorded.get(changed[0])}, not {self.settings[changed[0]]}" if changed else ""
