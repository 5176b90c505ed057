"""COCO AP with hotcoco: bit-identical to pycocotools, and much faster."""

import contextlib
import io
import json
from itertools import chain
from pathlib import Path

from detectron2.evaluation import COCOEvaluator

from cropfield.coco_checks import checked_coco
from cropfield.coco_files import repaired_copy
from pretrain.errors import UserError


class HotCOCOEvaluator(COCOEvaluator):
    """Detectron2's `COCOEvaluator` for boxes and masks, computed by hotcoco, a Rust implementation of COCO's protocol.

    pycocotools remains the official implementation and the default. To use hotcoco in a config, or as an override of
    any tool: `dataloader.evaluator._target_=cropfield.evaluation.HotCOCOEvaluator`.

    Raises:
        UserError: hotcoco is not installed, or rejects the dataset's file (it is stricter than pycocotools).
    """

    def __init__(self, dataset_name: str, **options):
        try:
            import hotcoco
        except ImportError as error:
            raise UserError(
                f"HotCOCOEvaluator needs hotcoco ({error}): pip install hotcoco, or leave dataloader.evaluator as is"
            ) from error
        super().__init__(dataset_name, **options)
        self._hotcoco, self._truth_file = hotcoco, readable_by(hotcoco, self._metadata.json_file)

    def _eval_predictions(self, predictions: list[dict], img_ids: list[int] | None = None) -> None:
        detections = list(chain.from_iterable(prediction["instances"] for prediction in predictions))
        numbers = self._metadata.get("thing_dataset_id_to_contiguous_id", {})  # none before the dataset is loaded
        dataset_ids = {number: key for key, number in numbers.items()}
        for detection in detections if dataset_ids else ():
            detection["category_id"] = dataset_ids[detection["category_id"]]
        if self._output_dir:
            Path(self._output_dir, "coco_instances_results.json").write_text(json.dumps(detections))
        for task in sorted(self._tasks or self._tasks_from_predictions(detections)):
            result = self._measure(detections, task, img_ids) if detections else None
            self._results[task] = self._derive_coco_results(result, task, self._metadata.get("thing_classes"))

    def _measure(self, detections: list[dict], task: str, img_ids: list[int] | None):
        if task == "segm":  # given a box, COCO would use its area instead of the mask's
            detections = [{k: v for k, v in detection.items() if k != "bbox"} for detection in detections]
        truth = self._hotcoco.COCO(self._truth_file)
        result = self._hotcoco.COCOeval(truth, truth.load_res(detections), task)
        result.params.max_dets = self._max_dets_per_image
        if img_ids is not None:
            result.params.img_ids = img_ids
        with contextlib.redirect_stdout(io.StringIO()) as table:
            result.run()
        self._logger.info("%s, by hotcoco:\n%s", task, table.getvalue() or "\n".join(result.summary_lines()))
        return result


def readable_by(hotcoco, json_file: str) -> str:
    """The file, or a reduced copy for detection: hotcoco also validates fields that it does not use.

    Raises:
        UserError: hotcoco can read neither.
    """
    try:
        hotcoco.COCO(json_file)
        return json_file
    except ValueError:
        copy = repaired_copy(checked_coco(json_file).content, json_file)
    try:
        hotcoco.COCO(copy)
        return copy
    except ValueError as error:
        raise UserError(
            f"hotcoco cannot read {json_file} ({error}); repair that, or keep the default dataloader.evaluator, which "
            "is pycocotools"
        ) from None
