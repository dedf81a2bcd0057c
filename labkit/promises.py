"""What each guarantee promises, as checks on an audited trial: the contracts of the table of protocols.

At-most-once: every delivery that is missing falls into an outage. At-least-once: none is missing, unless the producer
was killed and with it what only its memory held. Durable: none is missing. Always: nothing unexpected, nothing corrupt,
and each subscription in order and without repeats, unless its protocol's row in PROTOCOLS says otherwise.
"""

from labkit.outage import Strikes
from labkit.protocols import find
from labkit.recording import Recording
from labkit.trial import Guarantee


def may_lose(recording: Recording) -> bool:
    """Whether the guarantee allows a loss: retries and logs outlast an outage, memory does not outlive a process."""
    trial = recording.trial
    kills = trial.outage is not None and trial.outage.strikes is Strikes.PRODUCER
    # A broker's stream is no part of the producer's process.
    forgets = trial.guarantee is Guarantee.AT_LEAST_ONCE and kills and not find(trial.protocol).brokered
    return not trial.recovers or forgets


def broken(recording: Recording) -> list[str]:
    """The promises that a trial broke, each in a few words with its count; empty when it kept them all.

    An outage longer than all retries together (`Timings.retry_span`) is more than at-least-once promises to survive.
    """
    outcome, row, guarantee = recording.outcome, find(recording.trial.protocol), recording.trial.guarantee
    counts = {
        "unexplained": int(outcome.unexplained.sum()),
        "lost": 0 if may_lose(recording) else outcome.lost,
        "unexpected": outcome.unexpected,
        "corrupt": outcome.corrupt,
        "given to the application again": 0 if guarantee in row.repeats else outcome.twice,
        "out of order": 0 if guarantee in row.reorders else outcome.reordered,
    }
    found = [f"{count:,} {words}" for words, count in counts.items() if count]
    return [*found, "inconclusive"] if outcome.verdict == "inconclusive" else found
