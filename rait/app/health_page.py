"""The health page: what ``rait status`` shows, as one HTML page that needs nothing else.

Every text is escaped, as peers' names come from a registry's author. The script only puts what is
new in its place, and so keeps the place that the reader has scrolled to; without it, the browser
loads the page again.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from html import escape

from rait.app.status_words import (
    SHORT_KEY,
    ago,
    cost,
    fault_lines,
    handshake,
    reach,
    rtt,
    traffic,
)
from rait.app.tally import LastSync
from rait.domain.errors import FEW
from rait.domain.status import STATES, LastChange, LinkStatus, PeersAge, State, Status
from rait.terminal import bounded

REFRESH_SECONDS = 10
"""How often the page looks again, while somebody sees it."""

MAX_TEXT = 1000
"""In characters, of one text: a name may be as long as a registry's author likes."""

_NONE = ' class="none"'
_SIGNS: dict[State, str] = {
    "failed": "✕",
    "missing": "✕",
    "stale": "◐",
    "never": "○",
    "live": "●",
}

_STYLE = """
:root{color-scheme:light dark;
--text:#1b1f24;--mute:#57606a;--back:#fff;--card:#f6f8fa;--line:#d0d7de;
--live:#146c2e;--stale:#7d4e00;--never:#57606a;--failed:#b3261e;--missing:#b3261e}
@media(prefers-color-scheme:dark){:root{--text:#e6edf3;--mute:#9aa4af;--back:#0d1117;--card:#161b22;
--line:#30363d;--live:#56d364;--stale:#e3b341;--never:#9aa4af;--failed:#ff8a80;--missing:#ff8a80}}
*{box-sizing:border-box}
body{margin:0 auto;padding:1rem;max-width:80rem;background:var(--back);color:var(--text);
font:1rem/1.45 system-ui,sans-serif;overflow-wrap:anywhere}
h1{font-size:1.3rem;margin:0 0 .75rem}
.verdict{margin:0 0 1rem;padding:.6rem .9rem;border:1px solid var(--line);border-left:.4rem solid;
border-radius:.4rem;background:var(--card);font-weight:600}
.verdict ul{margin:.3rem 0 0;padding-left:1.4rem;font-weight:400}
.good{border-left-color:var(--live)}.bad{border-left-color:var(--failed)}
dl{display:grid;grid-template-columns:repeat(auto-fit,minmax(9rem,1fr));gap:.6rem;margin:0 0 1rem}
dl div{padding:.5rem .9rem;border:1px solid var(--line);border-radius:.4rem}
dt,small,caption,footer{color:var(--mute);font-size:.85rem}
dd{margin:0}dd b{font-size:1.3rem}
small{display:block}
table{width:100%;border-collapse:collapse;font-variant-numeric:tabular-nums}
caption{text-align:left;padding:0 0 .4rem}
th,td{padding:.4rem .75rem .4rem 0;border-top:1px solid var(--line);
text-align:left;vertical-align:top}
thead th{border-top:0;color:var(--mute);font-size:.85rem;font-weight:600;white-space:nowrap}
tbody th{font-weight:600}
tbody th,td:nth-child(n+5){white-space:nowrap}
td:nth-child(4){min-width:12rem}
code{font:.9em ui-monospace,monospace}
.state{font-weight:600;white-space:nowrap}
.live{color:var(--live)}.stale{color:var(--stale)}.never{color:var(--never)}
.failed{color:var(--failed)}.missing{color:var(--missing)}
footer{margin-top:1rem}a{color:inherit}
#gone{position:sticky;top:0}
@media(max-width:60rem){
table,tr,th,td,caption{display:block}
tbody{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(18rem,100%),1fr));gap:.6rem}
thead{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
tbody tr{padding:.5rem .9rem;border:1px solid var(--line);border-radius:.4rem}
tbody th,tbody td:nth-child(n){border:0;padding:.1rem 0;white-space:normal}
.none{display:none!important}
tbody td{display:grid;grid-template-columns:6.5rem minmax(0,1fr)}
tbody td::before{content:attr(data-head);color:var(--mute);font-size:.85rem}
}
"""

_SCRIPT = """
const seconds=SECONDS*1000,gone=document.getElementById('gone');
async function refresh(){
 if(document.hidden||!getSelection().isCollapsed)return;
 try{
  const answer=await fetch(location.href,{cache:'no-store',signal:AbortSignal.timeout(seconds)});
  const page=new DOMParser().parseFromString(await answer.text(),'text/html');
  document.querySelector('main').replaceWith(page.querySelector('main'));
  document.title=page.title;gone.hidden=true;
 }catch{gone.hidden=false}
}
setInterval(refresh,seconds);
document.addEventListener('visibilitychange',refresh);
""".replace("SECONDS", str(REFRESH_SECONDS))


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


POLICY = (
    f"default-src 'none'; style-src {_digest(_STYLE)}; script-src {_digest(_SCRIPT)}; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
"""The Content-Security-Policy of the page: its own style and script, and itself once more."""


def page(node: str, status: Status, last: LastSync | None = None) -> str:
    """The page about a node of this name, and the last sync if there was one."""
    live = status.counts()["live"]
    return _whole(
        f"{live}/{len(status.links)} links live: {node}",
        node,
        status.now,
        _verdict(status),
        "<dl>",
        *(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in _facts(status, last)),
        "</dl>",
        *(_table(status) if status.links else ()),
    )


def problem_page(node: str, now: int, problem: str) -> str:
    """The page about a node whose links cannot be looked at; ``now`` is unix time in seconds."""
    verdict = _box("bad", f"✕ The links cannot be looked at: {problem}")
    return _whole(f"links unknown: {node}", node, now, verdict)


def _whole(title: str, node: str, now: int, *parts: str) -> str:
    when = datetime.fromtimestamp(now, UTC)
    lines = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width,initial-scale=1">',
        f'<title>{_text(title)}</title><link rel="icon" href="data:,"><style>{_STYLE}</style>',
        f'<noscript><meta http-equiv="refresh" content="{REFRESH_SECONDS}"></noscript>',
        '</head><body><p id="gone" class="verdict bad" role="alert" hidden>',
        "✕ There is no answer any more, so what you see is old.</p>",
        f"<main><h1>rait on {_text(node)}</h1>",
        *parts,
        f'<footer><p>As of <time datetime="{when.isoformat()}">{when:%Y-%m-%d %H:%M:%S}</time>',
        f'UTC, refreshed every {REFRESH_SECONDS} seconds. <a href="metrics">Metrics</a>,',
        '<a href="status.json">JSON</a></p></footer></main>',
        f"<script>{_SCRIPT}</script></body></html>\n",
    )
    return "\n".join(lines)


def _box(kind: str, text: str, lines: Sequence[str] = ()) -> str:
    items = "".join(f"<li>{_text(line)}</li>" for line in lines)
    return f'<div class="verdict {kind}">{_text(text)}{items and f"<ul>{items}</ul>"}</div>'


def _verdict(status: Status) -> str:
    lines = [*status.waiting, *fault_lines(status)]
    if not lines:
        return _box("good", "✓ All is well." if status.links else "✓ There are no links.")
    more = [f"and {len(lines) - FEW} more"] if len(lines) > FEW else []
    return _box("bad", "✕ This needs a look:", [*lines[:FEW], *more])


def _facts(status: Status, last: LastSync | None) -> Iterator[tuple[str, str]]:
    """What is said on top: names, and values in HTML."""
    counts = status.counts()
    yield "links live", f"<b>{counts['live']}</b> of {len(status.links)}"
    others = [_state(state, f"{counts[state]} ") for state in STATES[:-1] if counts[state]]
    yield "others", "<br>".join(others) or "none"
    if status.peers is not None:
        yield "peers list confirmed", _confirmed(status.peers)
    if last is not None:
        told = f"{last.outcome}, because of {last.cause}, in {last.seconds:.2f} s"
        yield "last sync", ago(max(status.now - int(last.at), 0)) + _small(told)
    if status.last_change is not None:
        yield "last change", ago(status.last_change.age) + _small(_change(status.last_change))


def _confirmed(peers: PeersAge) -> str:
    when = ago(peers.age)
    return f'<span class="state failed">✕ {when}: too old</span>' if peers.too_old else when


def _change(change: LastChange) -> str:
    cause = f" ({change.cause})" if change.cause else ""
    return f"run {change.run}: {change.command}{cause}, {change.outcome}"


def _table(status: Status) -> Iterator[str]:
    heads = ["State", "Peer", "Endpoint", "Handshake", "Received", "Sent"]
    heads += ["Babel"] if status.babeld else []
    yield '<table role="table"><caption>Links, first those that need a look</caption>'
    yield '<thead role="rowgroup"><tr role="row">'
    yield from (f'<th role="columnheader" scope="col">{head}</th>' for head in ("Link", *heads))
    yield '</tr></thead><tbody role="rowgroup">'
    for link in status.worst_first():
        yield _row(link, heads)
    yield "</tbody></table>"


def _row(link: LinkStatus, heads: Sequence[str]) -> str:
    cells = (
        _state(link.state) + _small(link.why),
        _text(link.peer or "-") + _small(link.public_key[:SHORT_KEY]),
        f"<code>{_text(str(link.endpoint or '-'))}</code>" + _small(link.endpoint_is or ""),
        _text(handshake(link)),
        _text(traffic(link, link.received)),
        _text(traffic(link, link.sent)),
        _text(f"cost {cost(link)}, RTT {rtt(link)}") + _small(f"reach {reach(link)}")
        if link.babel is not None
        else "-",
    )
    # The roles are for the narrow layout, whose rows are no table's to a browser.
    columns = "".join(
        f'<td role="cell" data-head="{head}"{_NONE if cell == "-" else ""}><div>{cell}</div></td>'
        for head, cell in zip(heads, cells, strict=False)
    )
    return f'<tr role="row"><th role="rowheader" scope="row">{_text(link.name)}</th>{columns}</tr>'


def _state(state: State, before: str = "") -> str:
    return f'<span class="state {state}">{_SIGNS[state]} {before}{state}</span>'


def _small(text: str) -> str:
    return f"<small>{_text(text)}</small>" if text else ""


def _text(text: str) -> str:
    """A text from elsewhere in HTML. What hides, or turns the direction of text, is spelt out."""
    return escape(bounded(text, MAX_TEXT))
