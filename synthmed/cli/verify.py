"""`synthmed verify`: whether a folder of shards is whole and true."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from synthmed.cli.common import JsonOption, ShardsArgument, ThreadsOption, print_json, print_table
from synthmed.errors import DataError

if TYPE_CHECKING:
    from synthmed.data.verify.folder import VerifyReport


def verify(folder: ShardsArgument, threads: ThreadsOption = None, as_json: JsonOption = False) -> None:
    """Read every byte of a folder of shards and say what is wrong with it.

    Every member is read and every image decoded; the shards are compared with
    their hashes, the manifest, _info.json, sizes.json and README.md. Each
    problem is a row of a table, and then the exit code is 3. Shards made by
    other programs are checked as far as possible.

    Example: synthmed verify shards/airogs
    """
    from synthmed.data.verify.folder import verify_folder

    report = verify_folder(folder, workers=threads)
    if as_json:
        print_json(asdict(report))
    else:
        _print_report(report)
    if report.num_problems:
        first = report.problems[0]
        raise DataError(f"{folder}: {_count(report.num_problems)}, first: {first.file}: {first.problem}")


def _count(number: int) -> str:
    return "1 problem" if number == 1 else f"{number} problems"


def _print_report(report: VerifyReport) -> None:
    classes = list(next(iter(report.splits.values())))
    rows = [
        [split, *counts.values(), sum(counts.values()), report.shards[split], f"{report.departure[split]:.1f}"]
        for split, counts in report.splits.items()
    ]
    title = f"{report.folder}: {report.size / 1e6:.1f} MB read"
    print_table(title, ["split", *classes, "all", "shards", "off the mixture"], rows)
    if report.not_checked:
        print_table("not checked", ["what: why"], [[line] for line in report.not_checked])
    if report.num_problems:
        more = _count(report.num_problems)
        if report.num_problems > len(report.problems):
            more += f", the first {len(report.problems)}"
        print_table(more, ["file", "problem"], [[found.file, found.problem] for found in report.problems])
