"""Which of a model's variants runs here: measured on this machine, and remembered."""

from edge.choice.choice import (
    TIE,
    Candidate,
    Check,
    Choice,
    ChoiceSettings,
    choose,
    find_artifacts,
)

__all__ = ["TIE", "Candidate", "Check", "Choice", "ChoiceSettings", "choose", "find_artifacts"]
