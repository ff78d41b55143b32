"""What a user should know of finished results, each in one line; "" where there is nothing to be said."""

from array import array
from collections.abc import Iterable
from typing import Any

Records = Iterable[dict[str, Any]]


def beaten(records: Records) -> str:
    """Which images came out worse than the operator's own cheap answer."""
    scored, worse, first = 0, 0, ""
    for r in records:
        if None in (r.get("psnr"), r.get("baseline_psnr")):
            continue
        scored += 1
        if round(r["psnr"], 2) < round(r["baseline_psnr"], 2):  # as they are printed
            worse += 1
            first = first or "{image_id} {psnr:.2f} < {baseline_psnr:.2f} dB".format_map(r)
    more = f" and {worse - 1} more of {scored}" if worse > 1 else ""
    return f"below the classical answer (--solver baseline): {first}{more}" if worse else ""


def clamped(records: Records) -> str:
    """How much of the truths lies outside their windows and was cut off."""
    shares, count = array("d"), 0
    for record in records:
        count += 1
        if record.get("clamped"):
            shares.append(record["clamped"])
    if not shares:
        return ""
    mean, most = sum(shares) / len(shares), max(shares)
    of = f"{len(shares)} of {count} images"
    cut = f"{mean:.2%} on average, {most:.2%} at most"
    return f"{of} have values outside their window, which are cut off: {cut} (--window full)"


def advice(records: Records) -> str:
    """What else should have been asked for, with the first image that says so."""
    count, first = 0, ""
    for record in records:
        if record.get("advice"):
            count, first = count + 1, first or f"{record['image_id']}: {record['advice']}"
    return first + (f" (and {count - 1} more)" if count > 1 else "")
