"""Which runtimes can really be used, from what came of their proofs. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from surefoot.watch.doctor.facts import NOT_STARTED, Facts, Finding, Proof


def judge(facts: Facts, wanted: Sequence[str]) -> Iterator[Finding]:
    """One finding a runtime and provider, and before them whether any of the ``wanted`` runtimes works at all."""
    works = [proof.runtime for proof in facts.proofs if proof.outcome == "works"]
    if facts.recorded:
        yield Finding(
            name="runtimes",
            status="not verified",
            found="a recorded board runs nothing",
            hint="run surefoot doctor on the device",
        )
        return
    usable = [name for name in wanted if name in works]
    yield Finding(
        name="runtimes",
        status="ok" if usable else "problem",
        found=", ".join(usable) or "none that works",
        expected="" if usable else f"one of {', '.join(wanted)}",
        hint="" if usable else "see below; install the app with one of its extras, or take the image for this board",
    )
    yield from map(_finding, facts.proofs)


def _finding(proof: Proof) -> Finding:
    name = "/".join(part for part in ("runtime", proof.runtime, proof.provider) if part)
    if proof.outcome == "works":
        offered = f"; offers {', '.join(proof.offered)}" if proof.offered else ""
        return Finding(name=name, status="ok", found=f"{proof.version} answered right on {proof.used}{offered}")
    if proof.outcome == "missing":
        return Finding(
            name=name,
            status="not verified",
            found=f"its library is not here ({proof.reason})",
            expected="a loaded and answering model",
            hint=f"if this device needs it: install the app with its extra, surefoot[{proof.runtime}]",
        )
    return Finding(
        name=name,
        status="problem",
        found=proof.reason,
        expected="a loaded and answering model",
        hint=_hint(proof),
    )


def _hint(proof: Proof) -> str:
    if "SIGILL" in proof.reason:
        return "this processor lacks instructions that the library was built for: use another build or processor"
    if proof.reason.startswith(NOT_STARTED):
        return "let this user run the app's own Python"
    if proof.outcome == "died":
        return "reinstall the runtime's library; where it drives an accelerator, check its driver and its power"
    if proof.provider:
        return "install what this provider needs, or a build of the library without it"
    return "reinstall the runtime's library"
