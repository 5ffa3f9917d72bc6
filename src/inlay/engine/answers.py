"""How items leave the engine: with an error where they have no vector, and one call for each receiver."""

from __future__ import annotations

from inlay.errors import Cancelled, InlayError
from inlay.telemetry.logs import get_logger
from inlay.types import Done, Item, Sequence

log = get_logger("engine")


def hand_back(done: Done, items: list[Item]) -> None:
    """Give items to their receiver; one that has gone, or fails, must not hurt the others."""
    try:
        done(items)
    except Exception as error:  # noqa: BLE001 - such as a closed event loop: nobody waits any more
        log.warning("a receiver did not take its answers", items=len(items), error=type(error).__name__)


def hand_back_all(sequences: list[Sequence]) -> None:
    """Give the items of a batch back, all items of a receiver in one call."""
    receivers: dict[Done, list[Item]] = {}
    for sequence in sequences:
        receivers.setdefault(sequence.done, []).append(sequence.item)
    for done, items in receivers.items():
        hand_back(done, items)


def fail_all(sequences: list[Sequence], error: InlayError) -> None:
    """Answer sequences with an error."""
    for sequence in sequences:
        sequence.item.error = error
    hand_back_all(sequences)


def is_unwanted(sequence: Sequence) -> bool:
    """Does nobody wait for it any more: clients gone, or their time run out?"""
    return sequence.item.is_cancelled


def answer_unwanted(dropped: list[Sequence]) -> None:
    """Answer sequences that were dropped from the queue."""
    fail_all(dropped, Cancelled("nobody waits for it any more"))
