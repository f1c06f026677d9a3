"""How images are shown: to people, and as JSON."""

from typing import Any

from ...image.images import Image
from ...image.layers import Layer


def plain(text: str) -> str:
    """Text of an archive, on one line, and unable to control the terminal."""
    return "".join(char if char.isprintable() else " " for char in text)


def layer_facts(layer: Layer) -> dict[str, Any]:
    report = layer.report
    return {
        "DiffId": layer.diff_id,
        "Size": layer.size,
        "Files": layer.files,
        "Whiteouts": report.whiteouts,
        "Opaques": report.opaques,
        "Path": str(layer.path),
        "Remarks": {what: remark.count for what, remark in report.remarks.items()},
    }


def summary(item: Image) -> dict[str, Any]:
    return {
        "Id": item.id,
        "RepoTags": list(item.tags),
        "Created": item.created,
        "Architecture": item.config.text("architecture"),
        "Os": item.config.text("os"),
        "Size": item.size,
        "Layers": len(item.layers),
    }


def details(item: Image) -> dict[str, Any]:
    return summary(item) | {
        "Author": item.config.text("author"),
        "Config": item.config.run,
        "RootFS": {"Type": "layers", "Layers": [layer.diff_id for layer in item.layers]},
        "Layers": [layer_facts(layer) for layer in item.layers],
        "LowerDirs": [str(path) for path in item.lowerdirs],
    }
