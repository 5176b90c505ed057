"""What the pages say of files, options and keys is so."""

import argparse
import ast
import glob
import importlib.util
import re
from functools import cache
from itertools import product
from pathlib import Path

import pytest
from detectron2.config import get_cfg

from cropfield import add_cropfield_config
from lab import console
from pretrain.engine.lazy_config import check_key, load_config
from pretrain.errors import UserError

ROOT = Path(__file__).parents[2]
OTHERS = {"build", "dist", "outputs"}  # what is made here, beside hidden folders


def pages() -> list[Path]:
    found = [page for page in ROOT.rglob("*.md") if not OTHERS & {*page.relative_to(ROOT).parts}]
    return [page for page in sorted(found) if not any(part[0] == "." for part in page.relative_to(ROOT).parts)]


PAGES = {page.relative_to(ROOT).as_posix(): page.read_text() for page in pages()}
TOOLS = [*ROOT.glob("tools/*.py"), *ROOT.glob("projects/*/tools/*.py")]
BY_NAME = {path.name: path for path in TOOLS}
for _name in ("pretrain", "export", "train", "detect", "predict"):
    BY_NAME[f"cropfield-{_name}"] = ROOT / f"tools/{getattr(console, _name).args[0]}.py"
SCRIPTS = {path.stem: "" for path in ROOT.glob("tests/**/*.py")}
for _path in ROOT.glob("tests/**/*.py"):
    SCRIPTS[_path.stem] += _path.read_text()  # several are called run.py
DETECTRON2S = "tools/train_net.py"  # of which this repository has none
DAVIS = "--results_path"  # of DAVIS's own evaluation
COMMAND = re.compile(r"(?:[\w/]*/)?(cropfield-[a-z]+|\w+\.py)\b")
CONFIGS = (
    "configs/pretrain/cropfield_vits16_warmstart.py",
    "configs/COCO/mask_rcnn_cropfield_vits_12ep.py",
    "projects/StoP/configs/stop_vitb16_release.py",
    "projects/Lab/configs/ADE20K/semantic_linear_cropfield_tiny.py",
)


def sources() -> dict[str, str]:
    """Pages, and the module docstrings of tools and configs."""
    files = TOOLS + [*ROOT.glob("configs/**/*.py"), *ROOT.glob("projects/*/configs/**/*.py")]
    docstrings = {path.relative_to(ROOT).as_posix(): ast.get_docstring(ast.parse(path.read_text())) for path in files}
    return PAGES | {name: text.replace("\\\n", " ") for name, text in docstrings.items() if text}


def pieces(name: str, text: str) -> list[str]:
    return code_in(text) if name.endswith(".md") else text.splitlines() + code_in(text)


def code_in(text: str) -> list[str]:
    """Pieces of code of a page: a line of a block, with its continuations, or what stands between backticks."""
    blocks = re.findall(r"^ *```\w*\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE)
    blocks += re.findall(r"(?:^    .*\n)+", text, re.MULTILINE)
    lines = [line for block in blocks for line in re.sub(r"\\\n\s*", " ", block).splitlines()]
    rest = re.sub(r"^ *```\w*\n.*?^ *```", "", text, flags=re.DOTALL | re.MULTILINE)
    return lines + [" ".join(piece.split()) for piece in re.findall(r"`([^`]+)`", rest)]


class Parser(Exception):
    """Carries the parser that a tool was about to use."""


@pytest.fixture(scope="session")
def options_of():
    """options_of(path) -> every option that a tool of this repository takes, those of its sub-commands too."""
    known = {}

    def stop(parser, *_, **__):
        raise Parser(parser)

    def options(path: Path) -> set[str]:
        if path.name == "doctor.py":  # which takes none
            return set()
        if path not in known:
            spec = importlib.util.spec_from_file_location(f"documented_{path.stem}", path)
            tool = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(tool)
            with pytest.MonkeyPatch.context() as patch:
                for name in ("parse_args", "parse_known_args", "parse_intermixed_args"):
                    patch.setattr(argparse.ArgumentParser, name, stop)
                with pytest.raises(Parser) as caught:
                    tool.main()
            known[path] = all_options(caught.value.args[0])
        return known[path]

    return options


def all_options(parser: argparse.ArgumentParser) -> set[str]:
    found = set()
    for action in parser._actions:
        found |= {*action.option_strings}
        if isinstance(action, argparse._SubParsersAction):
            found = found.union(*(all_options(child) for child in action.choices.values()))
    return found


def slug(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", re.sub(r"`|\[|\]\(.*?\)", "", heading).strip().lower()).replace(" ", "-")


@cache
def anchors(page: str) -> set[str]:
    return {slug(heading) for heading in re.findall(r"^#+ (.+)$", PAGES[page], re.MULTILINE)}


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page):
    prose = re.sub(r"^ *```.*?^ *```|^    .*?$|`[^`]*`", "", PAGES[page], flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if target.startswith(("http:", "https:", "mailto:")):
            continue
        place, _, anchor = target.partition("#")
        file = ((ROOT / page).parent / place).resolve() if place else ROOT / page
        assert file.exists(), f"{page}: {target}"
        if anchor:
            assert anchor in anchors(file.relative_to(ROOT).as_posix()), f"{page}: {target}"


def expanded(pattern: str) -> list[str]:
    """a{b,c}d -> abd, acd"""
    parts = re.split(r"\{([^{}]*)\}", pattern)
    return ["".join(choice) for choice in product(*(p.split(",") if i % 2 else [p] for i, p in enumerate(parts)))]


def test_every_file_that_is_named_is_there():
    folders, endings = "configs|tools|tests|docs|projects|pretrain|requirements", "py|md|yaml|txt|in|png|toml|sbatch"
    named = re.compile(rf"(?<![\w/.~-])((?:{folders})/[\w./*{{}},-]*\w\.(?:{endings}))\b")
    wrong, count = [], 0
    for name, text in sources().items():
        for path in named.findall(text):
            if name == "CHANGELOG.md" or re.search(r"NAME|FILE", path) or path == DETECTRON2S:
                continue
            for one in expanded(path):
                count += 1
                here = [folder for folder in (ROOT, (ROOT / name).parent) if glob.glob(str(folder / one))]
                wrong += [] if here else [f"{name}: {path}"]
    assert not wrong and count > 200


def test_every_option_that_is_shown_is_the_tools_own(options_of):
    wrong, count = [], 0
    for name, text in sources().items():
        for piece in pieces(name, text):
            found = [match for match in COMMAND.finditer(piece) if match[1] in BY_NAME or match[1][:-3] in SCRIPTS]
            ends = [match.start() for match in found[1:]] + [len(piece)]
            for match, end in zip(found, ends, strict=False):
                said = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", piece[match.end() : end].split(";")[0]))
                if said and match[1] in BY_NAME:
                    known = options_of(BY_NAME[match[1]])
                elif said:
                    known = {option for option in said if f'"{option}"' in SCRIPTS[match[1][:-3]]}
                wrong += [f"{name}: {match[1]} {option}" for option in sorted(said - known)] if said else []
                count += len(said)
            option = re.split(r"[ =]", piece)[0]
            if piece.startswith("--") and option not in DAVIS and not any(f'"{option}"' in s for s in SCRIPTS.values()):
                wrong += [] if any(option in options_of(tool) for tool in TOOLS) else [f"{name}: {piece}"]
    assert not wrong and count > 100


@pytest.fixture(scope="module")
def configs():
    tiled = load_config(ROOT / "configs/COCO/mask_rcnn_cropfield_tiny.py", ["model._target_=cropfield.tiles.TiledRCNN"])
    return [load_config(ROOT / path, []) for path in CONFIGS] + [tiled]


def is_key(configs, key: str) -> bool:
    for cfg in configs:
        try:
            check_key(cfg, key)
            return True
        except UserError:
            pass
    return False


def test_every_key_that_is_shown_is_a_configs_own(configs):
    tops = "train|model|dataloader|optimizer|dataset|lr_multiplier"
    key = re.compile(rf"(?<![\w.$/{{=-])((?:pretrain\.|detect\.)?(?:{tops})(?:\.[a-z_0-9]+)+)(?= ?=|$)")
    wrong, count = [], 0
    for name, text in sources().items():
        for piece in pieces(name, text) if name != "CHANGELOG.md" else ():  # which also says what was
            for found in key.findall(piece):
                count += 1
                if not is_key(configs, re.sub(r"^(pretrain|detect)\.", "", found)):
                    wrong.append(f"{name}: {found}")
    assert not wrong and count > 150


def test_every_yaml_key_that_is_shown_exists():
    cfg = get_cfg()
    add_cropfield_config(cfg)
    found = {key for text in PAGES.values() for key in re.findall(r"\bMODEL(?:\.[A-Z_]+)+", text)}
    assert len(found) >= 3
    for key in found:
        node = cfg
        for part in key.split("."):
            assert part in node, key
            node = node[part]


def test_the_errors_that_are_explained_are_raised():
    files = [*ROOT.glob("pretrain/**/*.py"), *ROOT.glob("projects/CropField/cropfield/*.py"), *ROOT.glob("tools/*.py")]
    strings = []
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.JoinedStr):
                strings.append("".join(v.value if isinstance(v, ast.Constant) else "\0" for v in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                strings.append(node.value)
    text = PAGES["docs/troubleshooting.md"]
    sentences = re.findall(r"^\| `([^`]+)`(?: in `make doctor`)? \|", text[text.index("## Starting") :], re.MULTILINE)
    assert len(sentences) > 15
    for sentence in sentences:
        pattern = re.compile(".*".join(map(re.escape, re.split(r" ?… ?|…", sentence))), re.DOTALL)
        assert any(pattern.search(string) for string in strings), sentence
