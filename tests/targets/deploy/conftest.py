"""A board to deploy to, over a real sshd."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from edge.artifact import Artifact
from tests.stand_ins.deploy_board import DeployBoard, deploy_board, ready_python
from tests.stand_ins.python_runners import tiny_artifact


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return tiny_artifact(tmp_path_factory.mktemp("artifact") / "tiny")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DeployBoard]:
    with deploy_board(tmp_path_factory.mktemp("board")) as board:
        yield board


@pytest.fixture
def board(place: DeployBoard) -> Iterator[DeployBoard]:
    """Nothing is deployed."""
    place.clear()
    yield place
    place.clear()


@pytest.fixture
def ready(board: DeployBoard) -> Iterator[DeployBoard]:
    """An environment that is there already stands for each version's own: the rest is as ever."""
    with ready_python(board):
        yield board
