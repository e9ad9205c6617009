"""Addresses as they may be shown: which part of a URI is a password or a token, in one of them or in a text.

The one place that knows. A password is where whoever opens the address looks for it: SQLAlchemy lets one hold anything
but `@`, so that of a database may hold a slash; of web servers and the like the host ends at the first slash. What is
typed in by hand may be neither, so in doubt more is hidden, up to the last `@`.
"""

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote_plus

_MASK = "…"
_ADDRESS = re.compile(r"([A-Za-z][\w+.-]{0,40})://")
_NEXT = re.compile(r"""\n|[\s'"](?=[A-Za-z][\w+.-]{0,40}://)""")
"""What ends an address in a text at the latest: the line, or another address."""
_LONGEST = 4096
"""Characters of an address at most, so that a long text full of them is read in no time."""
_LINK = re.compile(r"::(?=[A-Za-z][\w+.-]{0,40}://)")
"""Between the parts of a chained URL, as in `zip://a.csv::https://host/b.zip`."""
_HEAD = re.compile(r"""[^\s/:'"]*""")
"""A user or a host, or both, up to the first colon."""
_WEB_HEAD = re.compile(r"""(?:\[[0-9A-Fa-f:.]+\]|[^\s/:?#'"])*""")
"""The same where a colon may be one of IPv6, within brackets."""
_PORT = re.compile(r"""\d+(?=[/?#\s'"]|[^\w@]*(?:\s|$))""")
_WORD = re.compile(r"""[^\s'"]*""")
_WEB = {"http", "https"}
_PORTS = {*_WEB, "dav", "davs", "ftp", "ftps", "grpc", "grpcs", "hdfs", "sftp", "smb", "ssh", "webdav", "webhdfs"}
"""Schemes whose hosts end at the first slash, so that their paths may hold an `@`."""
_INNER = {"archive", "blockcache", "dir", "filecache", "libarchive", "reference", "simplecache", "tar", "zip"}
"""Schemes of what is within a file, whose own address follows in the chain; they have no host."""
_QUERY = re.compile(r"""[?&#;]([^=&\s?#]+)=([^&\s]*[^&\s'"):;,]|[^&\s]+)""")
_SECRET_KEY = re.compile(
    r"password|passwd|passphrase|passcode|passkey|secret|(?:pass|pwd|token|signature|credentials?|(?:api|access|account)[_-]?key)$"
    r"|(?:^|[_.-])sig$",
    re.IGNORECASE,
)
"""Of a query's keys those whose values are secrets; `passfile`, which names a file, is none."""


def holds_secret(uri: str) -> bool:
    """Whether an address has a password or a token in it, which everybody would see who is shown the address."""
    return bool(_secrets(_in_one_word(uri)))


def holds_login(url: str) -> bool:
    """Whether a password or a token stands before the host of an address; its query may be signed."""
    return bool(_secrets(_in_one_word(url), with_query=False))


def shown(value: Any) -> Any:
    """A setting as it may be shown: a text that is an address with its secrets replaced by `…`, also within lists."""
    if isinstance(value, str):
        return _masked(value, _secrets(_in_one_word(value)))
    if isinstance(value, Mapping):
        return {key: shown(item) for key, item in value.items()}
    if type(value) in {list, tuple}:
        return type(value)(shown(item) for item in value)
    return value


def without_secrets(text: str) -> str:
    """A text as it may be shown: of the addresses in it the passwords and tokens replaced by `…`.

    A password may hold spaces and quotes, so where a text has one, all up to the last `@` of the line goes with it.
    """
    return _masked(text, _secrets(text))


def bare(uri: str) -> str:
    """An address as a person is told of it: without user and password, and without the query of a web server.

    Of other queries only the secrets are hidden: in the path of a file a question mark is a letter like others.
    """
    found = _ADDRESS.match(uri)
    if found is None or found[1].lower() in _INNER:
        inner, *outer = _LINK.split(uri, maxsplit=1)
        return "::".join([shown(inner), *(bare(link) for link in outer)])
    login = _login(_in_one_word(uri), found)
    rest = uri[found.end() if login is None else login[1] + 1 :]
    if found[1].lower() in _WEB:
        rest = re.split(r"[?#]", rest, maxsplit=1)[0]
    return shown(found[0] + rest)


def _secrets(text: str, with_query: bool = True) -> list[tuple[int, int]]:
    """Where the secrets in a text begin and end, in their order."""
    spans: list[tuple[int, int]] = []
    for found in _ADDRESS.finditer(text):
        login = _login(text, found) if not spans or found.end() > spans[-1][1] else None
        if login is not None:
            spans.append(login)
    logins = tuple(spans)
    found = _QUERY.search(text) if with_query else None
    while found is not None:
        key, (start, end) = unquote_plus(found[1]), found.span(2)
        is_secret = _SECRET_KEY.search(key) or (key == "odbc_connect" and "pwd" in found[2].lower())
        if is_secret and not any(first <= start < last for first, last in logins):
            spans.append((start, end))
        found = _QUERY.search(text, end if is_secret else start)  # what is no secret may hold one: ?a=1#token=b
    merged: list[tuple[int, int]] = []
    for start, end in sorted(span for span in spans if text[slice(*span)] not in {"", _MASK}):
        if merged and start < merged[-1][1]:  # an address within a secret of another
            start, end = merged[-1][0], max(end, merged.pop()[1])
        merged.append((start, end))
    return merged


def _login(text: str, address: re.Match[str]) -> tuple[int, int] | None:
    """Where the secret of an address begins, and where the `@` behind it is: the same place where a user stands alone.

    None where nobody logs in. Of web servers the user is part of the secret, for it may be a token.
    """
    scheme, start = address[1].lower(), address.end()
    if scheme in _INNER:
        return None
    beyond = _NEXT.search(text, start, start + _LONGEST)
    end = start + _LONGEST if beyond is None else beyond.start()
    head = _end(_WEB_HEAD if scheme in _PORTS else _HEAD, text, start)
    secret = head + 1
    if text.startswith(f":{_MASK}@", head):
        return secret + 1, secret + 1
    may_end = scheme in _PORTS or "@" in text[start:head]  # with a host, a port, or a colon of the text around it
    if text.startswith(":", head) and not (may_end and text[secret : secret + 1].isspace()):
        if may_end and _PORT.match(text, secret) is not None:
            end = secret if scheme in _PORTS else _end(_WORD, text, secret)
        at = text.rfind("@", secret, end)
        if at >= 0:
            return start if scheme in _WEB else secret, at
    at = text.rfind("@", start, head)
    return None if at < 0 else (start if scheme in _WEB else at, at)


def _end(pattern: re.Pattern[str], text: str, start: int) -> int:
    """Where a pattern that matches anywhere, if only nothing, ends."""
    found = pattern.match(text, start)
    assert found is not None
    return found.end()


def _in_one_word(uri: str) -> str:
    """An address of the same length without what would end it in a text: all of it is known to be one."""
    return re.sub(r"""[\s'"]""", "_", uri)


def _masked(text: str, spans: list[tuple[int, int]]) -> str:
    pieces, done = [], 0
    for start, end in spans:
        pieces += [text[done:start], _MASK]
        done = end
    return "".join([*pieces, text[done:]])
