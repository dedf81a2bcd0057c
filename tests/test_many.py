"""Two thousand subscribers on one server port, from a shell that allows 1,024 open files."""

import resource
from collections.abc import Iterator

import psutil
import pytest
from trials import Lab

from labkit.node import FILES, allow_files
from labkit.trial import Guarantee, Measure, Trial
from labkit.workload import Workload

FEW, MANY = 1024, 2000
ENOUGH = 2 * MANY + 100
"""Files that a machine has to allow: a link has two for each subscriber."""


@pytest.fixture
def few_files() -> Iterator[int]:
    """What a process started now inherits is a soft limit of 1,024; the hard one is the fixture."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (FEW, hard))
    yield hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def lab(few_files: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    if few_files != resource.RLIM_INFINITY and few_files < ENOUGH:
        pytest.skip(f"this machine allows {few_files} open files, and no more")
    lab = Lab(tmp_path_factory.mktemp("lab"), 1)
    yield lab
    lab.close()


def test_a_node_allows_itself_more_open_files_than_its_shell(node, few_files):
    child = node("link")
    child.ask("status")
    expected = FILES if few_files == resource.RLIM_INFINITY else min(few_files, FILES)
    assert psutil.Process(child.process.pid).rlimit(psutil.RLIMIT_NOFILE) == (max(FEW, expected), few_files)


def test_a_kernel_that_caps_it_lower_is_asked_for_less(monkeypatch):
    asked = []

    def setrlimit(_, limits):
        asked.append(limits[0])
        if limits[0] > 10_240:
            raise ValueError("current limit exceeds maximum limit")

    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, resource.RLIM_INFINITY))
    monkeypatch.setattr(resource, "setrlimit", setrlimit)
    allow_files()
    assert asked == [FILES, FILES // 2, FILES // 4, FILES // 8]


@pytest.mark.parametrize("protocol", ["websocket", "sse"])
@pytest.mark.parametrize("measure", [Measure.LATENCY, Measure.LOSS])
def test_two_thousand_subscribers_get_every_event(lab: Lab, protocol: str, measure: Measure) -> None:
    workload = Workload(rate=2, duration=1, subscribers=MANY)
    trial = Trial(f"many-{protocol}", measure, protocol, Guarantee.AT_MOST_ONCE, workload, uid="many")
    (recording,) = lab.run([trial])
    assert recording.outcome.delivered == recording.outcome.owed.sum() == 2 * MANY
