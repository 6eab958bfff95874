"""Classes of a detector by number or name: who is a person to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edge.digits import parse_digits
from edge.errors import SpecError
from edge.spec import ModelSpec

__all__ = ["COCO_CLASSES", "class_names", "find_labels", "others_text"]

_MOST_SHOWN = 12
_COCO = """
person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,stop sign,
parking meter,bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,backpack,umbrella,
handbag,tie,suitcase,frisbee,skis,snowboard,sports ball,kite,baseball bat,baseball glove,skateboard,
surfboard,tennis racket,bottle,wine glass,cup,fork,knife,spoon,bowl,banana,apple,sandwich,orange,
broccoli,carrot,hot dog,pizza,donut,cake,chair,couch,potted plant,bed,dining table,toilet,tv,laptop,
mouse,remote,keyboard,cell phone,microwave,oven,toaster,sink,refrigerator,book,clock,vase,scissors,
teddy bear,hair drier,toothbrush"""
COCO_CLASSES = tuple(name.strip() for name in _COCO.split(","))
"""The 80 classes of COCO, as labels 0 to 79 of the models that are trained on it."""


def class_names(spec: ModelSpec) -> tuple[str, ...]:
    """The names of a detector's classes, from 0 on: its own, or COCO's where it has 80 of them.

    Empty where nobody knows them.
    """
    if spec.class_names:
        return spec.class_names
    return COCO_CLASSES if spec.class_count == len(COCO_CLASSES) else ()


def find_labels(text: str | None, spec: ModelSpec) -> tuple[int, ...]:
    """The labels that ``text`` says, numbers or names with commas between them.

    None stands for people: the class called person, or else 0, which is a person in the person
    models and in COCO. Raises SpecError for a class that the detector does not have.
    """
    names = [name.casefold() for name in class_names(spec)]
    if text is None:
        return (names.index("person"),) if "person" in names else (0,)
    labels: list[int] = []
    for word in (word.strip() for word in text.split(",")):
        number = parse_digits(word, most=6)
        if number is None and word.casefold() not in names:
            raise SpecError(_unknown(word, spec))
        label = names.index(word.casefold()) if number is None else number
        if spec.class_count is not None and label >= spec.class_count:
            raise SpecError(
                f"--classes {label}: {spec.name} has the classes 0 to {spec.class_count - 1}"
            )
        labels.append(label)
    return tuple(dict.fromkeys(labels))


def others_text(counts: Mapping[int, int], spec: ModelSpec) -> str:
    """``4 boxes of other classes (4 of 16 'dog'); --classes 16 takes them``."""
    names = class_names(spec)
    most = sorted(counts, key=lambda label: (-counts[label], label))
    told = [
        f"{counts[label]} of {label}" + (f" {names[label]!r}" if label < len(names) else "")
        for label in most[:_MOST_SHOWN]
    ]
    more = ["..."] if most[_MOST_SHOWN:] else []
    total = sum(counts.values())
    return (
        f"{total} {'box' if total == 1 else 'boxes'} of other classes "
        f"({', '.join([*told, *more])}); --classes {most[0]} takes them"
    )


def _unknown(word: str, spec: ModelSpec) -> str:
    names: Sequence[str] = class_names(spec)
    if not names:
        known = "" if spec.class_count is None else f", 0 to {spec.class_count - 1}"
        return (
            f"--classes {word!r}: {spec.name} does not say what its classes are called: give their "
            f"numbers{known}, or name them in its spec as 'class_names'"
        )
    shown = ", ".join(names[:_MOST_SHOWN]) + (", ..." if names[_MOST_SHOWN:] else "")
    return f"--classes {word!r} is no class of {spec.name}; it has {shown}"
