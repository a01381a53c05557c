"""One channel's deliveries: what is started, what the spawner reports, and how many may run (qmail-send(8))."""

from collections.abc import Callable, Sequence

from pyqmail.formats.report import held_back
from pyqmail.log.events import Alert, DeliveryEnded, DeliveryStarted, Warn
from pyqmail.policy.classify import variable_sender
from pyqmail.protocol import spawn
from pyqmail.send.agenda import First, Resume
from pyqmail.send.job import Delivery, Job, judge
from pyqmail.send.means import Means
from pyqmail.send.providers import Providers
from pyqmail.send.queue_pass import Start
from pyqmail.send.shadow_link import WAIT_S
from pyqmail.send.shares import Shares, domain_of, share_of, user_of
from pyqmail.send.slots import Slots
from pyqmail.send.spawner_link import SpawnerLink
from pyqmail.send.status import Status

Reported = Callable[[Sequence[Delivery], bytes, bytes], None]
TERM_S = 150  # that local deliveries may still run after TERM


class Deliveries:
    """Starts deliveries and judges reports; ``reported`` gets those of one message with one letter and text.

    Several recipients that go together are one of the deliveries that are counted: they are one program's.
    """

    def __init__(
        self, name: str, means: Means, status: Status, *, commands: int, reports: int, reported: Reported
    ) -> None:
        self.name = name
        self.limit = 0  # the most deliveries at once
        self.slots = Slots()
        self.shares: Shares[int | Resume | First] = Shares(self._key, {})
        self.link = SpawnerLink(
            means.loop, commands, reports, reported=self._report, lost=self._lost, answered=self._answered
        )
        self._means = means
        self._providers = Providers(means.loop, self.shares)
        self._status = status
        self._reported = reported
        self._given_up = False
        self._ended: set[int] = set()  # slots that the spawner was told to end
        if means.shadow is not None:
            means.shadow.fence.channels.append(self)

    def _key(self, recipient: bytes) -> bytes:
        if self.name == "remote":
            return self._providers.key(domain_of(recipient))
        return user_of(recipient, self._means.controls.break_char)

    @property
    def running(self) -> int:
        """How many deliveries are under way."""
        return len(self.slots.used)

    @property
    def ready(self) -> bool:
        """Whether one more may start."""
        return len(self.slots.used) < self.limit and self.link.ready

    @property
    def waited_for(self) -> bool:
        """Whether one is under way whose report will come, and must."""
        return bool(self.link.alive and self.slots.used and not self._given_up)

    def controls_changed(self) -> None:
        """Serve by the controls, which are new; ask for a wide limit and for more commands where that would help."""
        self._fit()
        wide = self.link.limit == spawn.LIMIT_MAX < self._means.controls.concurrency[self.name]
        remote, copies = self.name == "remote", self._means.shadow is not None
        if wide or copies or remote and self._means.controls.together > 1:
            self.link.widen(together=remote, ends=copies)

    def _answered(self) -> None:
        """The spawner has said what it knows."""
        self._fit()
        if self._means.shadow is not None and not self.link.ends:
            self._means.log(
                Warn(
                    b"the %b spawner ends no delivery: without a lease one that goes on may be made by others too"
                    % self.name.encode()
                )
            )

    def together(self, job: Job) -> int:
        """How many recipients of ``job`` may go in one command: one if each has a sender of its own."""
        if self.name == "local" or variable_sender(job.sender, b"@") != job.sender:
            return 1
        return max(1, min(self._means.controls.together, self.link.together))

    def _fit(self) -> None:
        """Take up the limit, and what one domain or user may use of it."""
        controls = self._means.controls
        self.limit = min(controls.concurrency[self.name], self.link.limit)
        default = controls.share[self.name]
        if default is None:
            default = share_of(self.limit)
        self.shares.replace(controls.domain_concurrency if self.name == "remote" else {}, default or None)

    def start(self, job: Job, recipients: Sequence[Start]) -> None:
        """Have the message of ``job`` delivered to ``recipients``, all of one domain and no more than ``together``."""
        means = self._means
        job.started = True
        job.open += len(recipients)
        job.not_done += len(recipients)
        means.counters.started[self.name] += len(recipients)
        first = recipients[0].recipient
        key = self._key(first)
        self.shares.started(key)
        deliveries = [Delivery(job, self._status.next_serial(), one.offset, one.recipient, key) for one in recipients]
        slot = self.slots.take(deliveries)
        for delivery in deliveries:
            means.log(DeliveryStarted(delivery.serial, job.number, self.name, delivery.recipient))
        means.log(self._status.running())
        message = b"%d/%d" % (job.number % means.layout.split, job.number)
        self.link.command(slot, message, variable_sender(job.sender, first), [one.recipient for one in recipients])

    def end(self, whose: Callable[[bytes], bool]) -> int:
        """End the deliveries of messages whose copies ``whose`` says are; how many. They are due again at once.

        Which of them may be made then is decided as for any other (passes.begin).
        """
        if not (self.link.ends and self.link.alive):
            return 0
        count = 0
        for slot, together in self.slots.used.items():
            job = next(iter(together.values())).job
            if slot not in self._ended and whose(job.copy):
                self._ended.add(slot)
                self.link.end(slot)
                job.retry = min(job.retry, int(self._means.clock()) + WAIT_S)
                count += len(together)
        return count

    def give_up(self) -> None:
        """Wait no longer for what runs; a report that comes all the same is still acted on."""
        self._given_up = True
        for delivery in (each for together in self.slots.used.values() for each in together.values()):
            self._means.log(
                Warn(
                    b"delivery %d: still running %d seconds after TERM, not waited for; it will be made again"
                    % (delivery.serial, TERM_S)
                )
            )

    def _report(self, report: spawn.Report) -> None:
        means = self._means
        deliveries = self.slots.release(report.slot, report.first, report.last)
        if not deliveries:
            means.log(Warn(b"internal error: delivery report out of range"))
            return
        job = deliveries[0].job
        ended_by_us = report.slot in self._ended
        if report.slot not in self.slots.used:
            self.shares.ended(deliveries[0].key)
            self._ended.discard(report.slot)
        held = held_back(report.letter, report.text) if self.name == "remote" else None
        if held is not None:
            self._providers.held_back(domain_of(deliveries[0].recipient), held)
        letter, text = report.letter, report.text
        if not ended_by_us:  # else nothing is said of its recipient, however old it is
            letter, text = judge(job, letter, text)
        age_s = means.clock() - job.birth
        for delivery in deliveries:
            means.counters.reported(self.name, letter, age_s)
            means.log(ended(delivery.serial, letter, text))
        means.log(self._status.running())
        self._reported(deliveries, letter, text)

    def _lost(self) -> None:
        self._means.log(Alert(b"oh no! lost spawn connection! dying..."))
        self._means.exiting = True


RESULTS = {spawn.SUCCESS: "success", spawn.DEFERRAL: "deferral", spawn.FAILURE: "failure"}


def ended(serial: int, letter: bytes, text: bytes) -> DeliveryEnded:
    """What the log says of a report; any other letter defers."""
    result = RESULTS.get(letter)
    return DeliveryEnded(serial, result, text) if result is not None else DeliveryEnded(serial, "mangled")
