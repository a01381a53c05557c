"""The status page: what it says and hides, and that nobody gives orders by accident; once in a real browser."""

import os
import re
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyqmail.look.queue_look import QueueLook, QueueState, parse_queue
from pyqmail.look.status_app import StatusApp
from pyqmail.look.status_figures import read_figures
from pyqmail.look.status_page import StatusPage
from pyqmail.look.watchers import STOPPED, QueueWatcher
from pyqmail.look.web import Request, Way
from pyqmail.look.web_listen import Certificate
from pyqmail.look.web_login import SESSIONS_MAX, Logins, from_own_page
from tests.certificates import self_signed
from tests.look.browser import Browser
from tests.look.metrics_server import Metrics
from tests.look.test_prometheus import Answering, board
from tests.loopback import free_port
from tests.nameserver import nameserver, own_network
from tests.programs.sending import Sending
from tests.waiting import wait_for

NOW = 1_795_392_000.0
HOSTILE = "<script>alert(1)</script>\"'\x1b[2J"
TOKEN = "a token of the test 0123456789"
ROWS = [
    [7, "held", 90000.0, 2500, HOSTILE, [HOSTILE, "b.test"], 2, 3, None, HOSTILE],
    [8, "waiting", 60.0, 100, "", ["c.test"], 1, 0, -5.0, ""],
]
QUEUE = {"whole": 9000, "rows": ROWS, "held": [HOSTILE]}


def page(*, full: bool, wanted: str = "", secret: str = "") -> str:
    queue = parse_queue(QUEUE, NOW)
    made = StatusPage("mx.example.test", read_figures(board(), NOW), queue, NOW, full=full)
    return made.html(wanted, secret, live=False, login=False).decode()


@pytest.mark.parametrize("secret", ["", HOSTILE])
def test_strangers_text_is_text(secret: str) -> None:
    html = page(full=True, secret=secret, wanted=HOSTILE)
    assert "<script" not in html and "\x1b" not in html and "&lt;script&gt;" in html
    assert re.search(r"(?:src|href)=.?(?:http|//)", html) is None
    assert not re.findall(r" (?:style|on\w+)=", html)  # the policy would not let them


def test_in_clear_senders_and_answers_are_not_shown() -> None:
    assert "&lt;&gt;" in page(full=True) and "sender" in page(full=True)
    html = page(full=False)
    assert html.count("&lt;script") == 2  # the domains
    assert "&lt;&gt;" not in html and 'name="order"' not in html
    assert "0 messages of the 2" in page(full=False, wanted="alert(1)</script>\"'?[2J, 7")
    assert "1 messages of the 2" in page(full=False, wanted="C.TEST")


def test_figures_are_those_of_logs_and_counters() -> None:
    known = board()
    logs = known.logs.value.page
    begin = int(NOW // 600) * 600
    logs["history"] = [[begin, {"success": 3, "accepted": 4, "encrypted": 1}], [begin - 7200, {"success": 5}]]
    logs["domains"] = {"a.test": {"success": 9}, "b.test": {"failure": 1}}
    logs["failures"] = [[1.0, "failure", "b.test", "no"], [2.0, "deferral", "c.test", "later"]]
    figures = read_figures(known, NOW)
    assert (figures.total("success", 3600), figures.total("success")) == (3, 8)
    assert [name for name, _ in figures.domains] == ["b.test", "a.test"] and figures.failures[0][1] == "deferral"
    shown = dict((name, value) for value, name in StatusPage("h", figures, QueueState(), NOW, full=True).figures())
    assert shown["with TLS, last day"] == "25 %" and shown["messages in the queue"] == "0"
    assert [name for name, _ in figures.delays][-1] == "longer"
    assert figures.steps[-1] == (begin, Counter(success=3, accepted=4, encrypted=1))


def test_a_stopped_qmail_send_is_said_first() -> None:
    known = board()
    known.send._last = type(known.send.value)(STOPPED, "")
    html = StatusPage("h", read_figures(known, NOW), QueueState(), NOW, full=True).html("", "", live=False, login=False)
    assert b'<p class="down">qmail-send does not run: nothing is delivered.</p>' in html


@pytest.mark.parametrize("wrong", [[], {}, {**QUEUE, "rows": [[1]]}, {**QUEUE, "rows": [[*ROWS[0][:9], 5]]}])
def test_what_is_no_queue_is_not_taken_for_one(wrong: object) -> None:
    with pytest.raises(ValueError):
        parse_queue(wrong, NOW)
    state = QueueLook(Answering("queue", wrong)).state()
    assert state.rows == () and state.error


class Site:
    """A status page without a server, and one browser's cookie."""

    def __init__(self, token: str = TOKEN) -> None:
        self.asked: list[object] = []
        self.said: list[str] = []
        answering = Answering("queue", QUEUE)
        answering.ask = self._ask  # type: ignore[method-assign]
        self.app = StatusApp("h", board(), answering, Logins(token), self.said.append)
        self.cookie = ""

    def _ask(self, question: object, patience_s: float) -> object:
        self.asked.append(question)
        return QUEUE if question == "queue" else "done"

    def __call__(
        self, method: str, path: str, way: Way = Way.TLS, headers: dict[str, str] | None = None, **form: str
    ) -> tuple[int, str]:
        sent = {"host": "h:1", "cookie": self.cookie, **(headers or {})}
        answer = self.app(Request(method, path, {}, form, sent, way, "192.0.2.7"))
        assert answer is not None
        if "Set-Cookie" in answer.headers:
            assert "; Secure; HttpOnly; SameSite=Strict" in answer.headers["Set-Cookie"]
            self.cookie = "x=y; " + answer.headers["Set-Cookie"].partition(";")[0]
        return answer.status, answer.body.decode()

    def secret(self) -> str:
        found = re.search(r'name="secret" value="([^"]+)"', self("GET", "/")[1])
        return found[1] if found else ""


def test_an_order_needs_the_token_the_forms_secret_and_a_second_click() -> None:
    site = Site()
    assert site.secret() == ""
    assert site("POST", "/login", token="wrong")[0] == 403 and site.said == ["192.0.2.7: wrong token"]
    assert site("POST", "/login", token=TOKEN)[0] == 303
    secret = site.secret()
    assert len(secret) > 30
    status, question = site("POST", "/confirm", secret=secret, order="delete", id="7")
    assert (
        status == 200 and "delete message 7?" in question and "hear nothing" in question and "<script" not in question
    )
    for form in ({}, {"secret": "x"}, {"secret": ""}):
        assert site("POST", "/order", **form, order="delete", id="7")[0] == 403
    for headers in ({"origin": "https://evil.test"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"}):
        assert site("POST", "/order", headers=headers, secret=secret, order="delete", id="7")[0] == 403
        assert site("POST", "/login", headers=headers, token=TOKEN)[0] == 403
    for form in (
        {"order": "retry all", "id": "7"},
        {"order": "delete", "id": "\u0667"},
        {"order": "hold", "id": "9" * 20},
    ):
        assert site("POST", "/order", secret=secret, **form)[0] == 400
    assert site("POST", "/order", Way.CLEAR, secret=secret, order="delete", id="7")[0] == 403
    assert all(question == "queue" for question in site.asked)
    assert (
        "delete 7: done"
        in site("POST", "/order", headers={"origin": "https://h:1"}, secret=secret, order="delete", id="7")[1]
    )
    assert site.asked[-1] == ["delete", 7] and site.said[-1] == "192.0.2.7: delete msg 7"
    assert site("POST", "/logout", secret=secret)[0] == 303
    assert site("POST", "/order", secret=secret, order="delete", id="7")[0] == 403


def test_without_a_token_or_in_clear_nobody_logs_in() -> None:
    assert Site("")("POST", "/login", token="")[0] == 403 and Site("")("GET", "/login")[0] == 404
    assert Site()("POST", "/login", Way.CLEAR, token=TOKEN)[0] == 403 and Site()("GET", "/login", Way.CLEAR)[0] == 404
    site = Site()
    site("POST", "/login", token=TOKEN)
    assert site.secret() and 'name="secret"' not in site("GET", "/", Way.CLEAR)[1]


def test_over_a_unix_socket_an_order_needs_the_same() -> None:
    site = Site()
    assert site("POST", "/login", Way.LOCAL, token=TOKEN)[0] == 303
    secret = site.secret()
    assert site("POST", "/order", Way.LOCAL, order="hold", id="7")[0] == 403
    evil = {"origin": "http://evil.test"}
    assert site("POST", "/order", Way.LOCAL, evil, secret=secret, order="hold", id="7")[0] == 403
    assert all(question == "queue" for question in site.asked)
    assert "hold 7: done" in site("POST", "/order", Way.LOCAL, secret=secret, order="hold", id="7")[1]
    assert site.asked[-1] == ["hold", 7]


def test_sessions_are_bounded() -> None:
    logins = Logins(TOKEN)
    names = [logins.begin() for _ in range(SESSIONS_MAX + 1)]
    found = [logins.of(Request("GET", "/", {}, {}, {"cookie": f"__Host-qmail={name}"}, Way.TLS, "")) for name in names]
    assert found[0] is None and None not in found[1:] and len(set(found)) == SESSIONS_MAX + 1
    assert from_own_page(Request("POST", "/", {}, {}, {"host": "H", "origin": "https://h"}, Way.TLS, ""))


def test_the_watcher_obeys_no_orders_where_there_is_no_token(send_home: Path) -> None:
    assert QueueWatcher(str(send_home), orders=False).answer(["delete", 7]) == [STOPPED, ""]


def test_a_renewed_certificate_is_taken_and_a_bad_one_is_not(tmp_path: Path) -> None:
    file = tmp_path / "control/metricscert.pem"
    file.parent.mkdir()
    said: list[str] = []

    def put(data: bytes, mode: int = 0o600) -> None:
        new = file.with_suffix(".new")
        new.write_bytes(data)
        new.chmod(mode)
        new.replace(file)

    put(self_signed(tmp_path).read_bytes())
    certificate = Certificate(str(tmp_path), said.append)
    first = certificate.context()
    assert certificate.context() is first
    for data, mode in ((b"broken", 0o600), (file.read_bytes(), 0o644)):
        put(data, mode)
        assert certificate.context() is certificate.context() is first
    assert [line.endswith(": the certificate before it stays in force") for line in said] == [True, True]
    put(self_signed(tmp_path).read_bytes())
    assert certificate.context() is not first and len(said) == 2


@pytest.fixture
def our_domains(send_home: Path) -> Iterator[bool]:
    """Our domains in a name server, all is not well with them; False where there is none."""
    if os.geteuid() != 0 or not shutil.which("nsd"):
        yield False
        return
    address = own_network() + ".44"
    for name, text in (("outgoingip", "192.0.2.25"), ("dnsservers", address)):
        (send_home / "control" / name).write_text(text + "\n")
    mail = ["@ MX 10 mx.example.test.", '@ TXT "v=spf1 ip4:192.0.2.25 -all"']
    zones = {
        "test": [],
        "example": [],
        "example.test": ["mx A 192.0.2.25"],
        "here.example": [*mail, '_dmarc TXT "v=DMARC1; p=quarantine"'],
        "v.example": mail[:1],
        "2.0.192.in-addr.arpa": ["25 PTR mx.example.test."],
    }
    with nameserver(address, zones):
        yield True


@pytest.fixture
def served(send_home: Path, sending: Sending, our_domains: bool, tmp_path: Path) -> Iterator[tuple[Sending, str]]:
    """A qmail-send with one message that waits, and a page by TLS."""
    control = send_home / "control"
    for name, count in (("conf-users", 8), ("conf-groups", 2), ("conf-metrics", 1), ("conf-verifier", 1)):
        (control / name).write_text(f"{os.getuid()}\n" * count)
    for name, data in (("metricscert.pem", self_signed(tmp_path).read_text()), ("metricstoken", TOKEN + "\n")):
        (control / name).write_text(data)
        (control / name).chmod(0o600)
    (send_home / "log").mkdir()
    (send_home / "log/current").write_text(log_of_a_day())
    sending.put(b"joe@a.example", b"ann@far.example")
    sending.start()
    sending.until(lambda: sending.commands["remote"])
    sending.report("remote", sending.commands["remote"][0].slot, b"Z", b"Connected but got 451 <b>later</b>")
    sending.until_log("deferral")
    port = free_port()
    with Metrics(send_home, str(send_home / "log"), more=f"127.0.0.1:{port} tls\n", looks_at_dns=our_domains):
        yield sending, f"https://127.0.0.1:{port}"


def log_of_a_day() -> str:
    """Some traffic of the last 24 hours."""
    lines = []
    now = int(time.time())
    for step in range(143):
        when = now - 86000 + step * 600
        for number in range(3 + step % 17 + (step // 12) % 7):
            result = "deferral" if number % 5 == 4 else "failure" if number % 11 == 10 else "success"
            ip = f"{when}.0 qmail-smtpd: accepted ip=192.0.2.1 helo=c from=<a@b.test> to=<c@d.test> bytes=9 qp=5"
            lines.append(ip + (" encrypted=TLSv1.3" if number % 4 else ""))
            lines.append(f"{when}.1 starting delivery {number}: msg 5 to remote joe@{'abc'[number % 3]}.example")
            lines.append(f"{when}.5 delivery {number}: {result}: said_so/")
    return "".join(f"{line}\n" for line in lines)


def shows(browser: Browser, url: str, *texts: str) -> bool:
    browser.open(url)
    return all(text in browser.text for text in texts)


def test_in_a_browser(served: tuple[Sending, str], our_domains: bool) -> None:
    sending, url = served
    wanted = ["1 messages; 1 in the queue", "qmail-send runs", "a.example"]
    wanted += ["checks found something amiss", "here.example"] if our_domains else []
    pictures = os.environ.get("PYQMAIL_PICTURES")
    with Browser() as browser:
        browser.open(url)
        assert "Token" in browser.text
        browser.type_into("input[name=token]", TOKEN)
        browser.click("button")
        wait_for(lambda: shows(browser, url, *wanted), "the page")
        assert "451 <b>later</b>" in browser.text and "joe@a.example" in browser.text
        for width, height, scheme, name in ((900, 640, "light", "status"), (390, 700, "dark", "status-phone")):
            browser.be(width, height, scheme)
            browser.open(url)
            assert browser.look("document.documentElement.scrollWidth") <= width
            color = browser.look("getComputedStyle(document.body).color")
            assert color == {"light": "rgb(0, 0, 0)", "dark": "rgb(255, 255, 255)"}[scheme]
            if pictures:
                browser.picture(Path(pictures) / f"{name}.png")
        browser.type_into("input[name=q]", "nothing of that")
        browser.click("form[role=search] button")
        assert "0 messages" in browser.text
        browser.open(url)
        browser.click("button[value=hold]")
        assert "hold message" in browser.text and "control:" not in sending.log
        browser.click("form[action='/order'] button")
        sending.until(lambda: re.search(r"control: uid \d+: hold msg \d+\n", sending.log))
        wait_for(lambda: shows(browser, url, "held"), "the page to know")
        assert browser.complaints == [] and all(each.startswith(url) for each in browser.asked if each[:4] == "http")
