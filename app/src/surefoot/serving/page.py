"""The status page: one plain document for a person, made on the server, with nothing fetched from anywhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from surefoot.serving.status import ModelServing, ScrubServing, ServingStatus, ShadowServing

REFRESH_S = 5

_STYLE = """
:root{color-scheme:light dark;--ink:#1c2430;--soft:#5d6b7c;--line:#dde3ea;--card:#fff;--ground:#f4f6f9;
--good:#14794a;--warn:#a15c00;--bad:#b3261e;--tint:#eef3f8}
@media(prefers-color-scheme:dark){:root{--ink:#e6ebf2;--soft:#98a6b8;--line:#2a3442;--card:#171e28;--ground:#0f141b;
--good:#4cc38a;--warn:#f0a94b;--bad:#ff8a80;--tint:#1e2733}}
*{box-sizing:border-box}body{margin:0;background:var(--ground);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif}
main{max-width:64rem;margin:0 auto;padding:2rem 1rem}h1{font-size:1.4rem;margin:0}h2{font-size:1.15rem;margin:0}
header{display:flex;gap:1rem;align-items:baseline;flex-wrap:wrap;margin-bottom:1.5rem}
section{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:1.25rem;margin-bottom:1.25rem}
.row{display:flex;gap:.75rem;align-items:baseline;flex-wrap:wrap}.soft{color:var(--soft)}
.tag{border-radius:99px;padding:.1rem .65rem;font-size:.82rem;border:1px solid currentColor}
.good{color:var(--good)}.warn{color:var(--warn)}.bad{color:var(--bad)}
dl{display:grid;grid-template-columns:repeat(auto-fit,minmax(8.5rem,1fr));gap:.75rem;margin:1rem 0}
dt{color:var(--soft);font-size:.8rem}dd{margin:0;font-size:1.15rem;font-variant-numeric:tabular-nums}
table{border-collapse:collapse;width:100%;font-size:.92rem}th{color:var(--soft);font-weight:500;text-align:left}
th,td{padding:.35rem .6rem .35rem 0;border-top:1px solid var(--line);vertical-align:top}
h3{font-size:.85rem;color:var(--soft);margin:1.1rem 0 .35rem;font-weight:600}
code{background:var(--tint);padding:.05rem .35rem;border-radius:4px;font-size:.88em}.wide{overflow-x:auto}
a{color:inherit}td:last-child{overflow-wrap:anywhere}
@media(max-width:36rem){main{padding:1.25rem .6rem}section{padding:1rem .8rem}
dl{grid-template-columns:1fr 1fr 1fr;gap:.6rem}dd{font-size:1rem;overflow-wrap:anywhere}
table{font-size:.8rem}th,td{padding-right:.4rem}.tag{padding:.1rem .5rem;font-size:.78rem}}
"""

_TONES = {
    "serving": "good",
    "confirmed": "good",
    "ready": "good",
    "trial": "warn",
    "loading": "warn",
    "staged": "warn",
    "filling": "warn",
    "failed": "bad",
}


def render(status: ServingStatus) -> str:
    """The page as HTML. Whatever came from outside is escaped."""
    state = _tag("ready", "good") if status.ready else _tag("not ready", "bad")
    problem = f'<p class="bad">{escape(status.problem)}</p>' if status.problem else ""
    models = "".join(_model(model) for model in status.models) or (
        '<section><h2>No model yet</h2><p class="soft">Install one: '
        "<code>surefoot model install NAME --version X.Y.Z --repository …</code></p></section>"
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="refresh" content="{REFRESH_S}"><title>Surefoot</title><style>{_STYLE}</style></head>
<body><main>
<header><h1>Surefoot</h1>{state}<span class="soft">{escape(status.url)} · version {escape(status.version)} ·
up {_duration(status.uptime_s)} · since {escape(status.started_at)}</span></header>
{problem}{models}
<p class="soft">Process {status.pid}, gateway {_whole(status.gateway_pid)} (restarted {status.gateway_restarts} times).
The same as <a href="/status.json">JSON</a>, as <a href="/metrics">metrics</a>.
This page renews itself every {REFRESH_S} seconds.</p>
</main></body></html>
"""


def _model(model: ModelServing) -> str:
    slots = model.slots
    tags = [_tag(model.state, _TONES.get(model.state, "soft"))]
    if slots.get("trial"):
        tries = slots["trial"]
        tags.append(_tag(f"on trial, try {tries.get('tries')} of {tries.get('allowed')}", "warn"))
    if slots.get("put_off"):
        put_off = slots["put_off"]
        then = "will be tried again" if put_off.get("again") else "waits for somebody"
        tags.append(_tag(f"{put_off.get('version')} was put off, {then}", "warn"))
    if slots.get("held"):
        tags.append(_tag("held: updates wait", "warn"))
    shadow = _shadow(model.shadow) if model.shadow is not None else ""
    reason = f'<p class="bad">{escape(model.reason)}</p>' if model.reason else ""
    reason += _rot(model.scrub) if model.scrub is not None and model.scrub.rotten else ""
    figures = _figures(
        {
            "version": model.version or "none",
            "slot": model.slot or "none",
            "runtime": f"{model.runtime} {model.runtime_version}" if model.runtime else "none",
            "provider": (model.provider or "none").removesuffix("ExecutionProvider"),
            "p50": _milliseconds(model.p50_ms),
            "p99": _milliseconds(model.p99_ms),
            "inferences": f"{model.inferences:,}",
            "failed": f"{model.failures:,}",
            "memory": f"{model.memory_bytes / 1e6:.0f} MB" if model.memory_bytes else "none",
            "serving for": _duration(model.uptime_s) if model.ready else "not serving",
            "worker restarts": str(model.restarts),
        }
    )
    return (
        f'<section><div class="row"><h2>{escape(model.name)}</h2>{"".join(tags)}</div>{reason}{figures}{shadow}'
        f"{_slots(slots)}{_quarantine(slots)}{_events(model.events)}</section>"
    )


def _rot(scrub: ScrubServing) -> str:
    what = f"Rotten on the disk ({scrub.at}): {', '.join(scrub.rotten)}. {'; '.join(scrub.actions)}"
    return f'<p class="bad">{escape(what)}</p>'


def _shadow(shadow: ShadowServing) -> str:
    doing = (
        "sees a sample of real inputs and answers nobody" if shadow.watching else shadow.reason or "sees nothing now"
    )
    compared = shadow.agreed + shadow.disagreed
    share = f"{shadow.agreed / compared:.1%} of {compared:,} agreed" if compared else "nothing compared yet"
    more = f"{shadow.failed:,} failed, {shadow.skipped:,} skipped"
    return f'<p class="soft">Shadow {escape(shadow.version)} {escape(doing)}: {share}; {more}.</p>'


def _figures(figures: Mapping[str, str]) -> str:
    return (
        "<dl>"
        + "".join(f"<div><dt>{key}</dt><dd>{escape(value)}</dd></div>" for key, value in figures.items())
        + "</dl>"
    )


def _slots(slots: Mapping[str, Any]) -> str:
    active = (slots.get("active") or {}).get("slot")
    rows = [
        (
            f"{escape(name)}{' (active)' if name == active else ''}",
            _tag(str(slot.get("status")), _TONES.get(str(slot.get("status")), "soft")),
            escape(str(slot.get("version") or "none")),
            f"<code>{escape(str(slot.get('digest') or 'none')[:12])}</code>",
        )
        for name, slot in (slots.get("slots") or {}).items()
    ]
    previous = ", ".join(str(release.get("version")) for release in slots.get("previous") or []) or "nothing yet"
    note = f'<p class="soft">A rollback can return to: {escape(previous)}</p>'
    return "<h3>Slots</h3>" + _table(("slot", "state", "version", "digest"), rows) + note


def _quarantine(slots: Mapping[str, Any]) -> str:
    rows = [
        (
            escape(str(entry.get("version"))),
            f"<code>{escape(str(entry.get('digest'))[:12])}</code>",
            escape(str(entry.get("reason"))),
        )
        for entry in slots.get("quarantine") or []
    ]
    return "<h3>Quarantined</h3>" + _table(("version", "digest", "why"), rows) if rows else ""


def _events(events: Iterable[Any]) -> str:
    rows = [
        (
            escape(str(event.get("time", "")).replace("T", " ").removesuffix("Z")),
            escape(str(event.get("what", ""))),
            escape(str(event.get("version", ""))),
            escape(str(event.get("reason", ""))),
        )
        for event in reversed(list(events))
    ]
    return "<h3>Last events</h3>" + _table(("time (UTC)", "what", "version", "why"), rows) if rows else ""


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = "".join(f"<th>{cell}</th>" for cell in heads)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _tag(text: str, tone: str) -> str:
    return f'<span class="tag {tone}">{escape(text)}</span>'


def _whole(number: int | None) -> str:
    return "none" if number is None else str(number)


def _milliseconds(value: float | None) -> str:
    return "none yet" if value is None else f"{value:.2f} ms"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [f"{days} d"] * bool(days) + [f"{hours} h"] * bool(hours) + [f"{minutes} min"] * bool(minutes)
    return " ".join(parts[:2]) or f"{rest} s"
