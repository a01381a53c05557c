"""The live view of qmail-top: the overview, a table of messages, and keys that give qmail-q's orders (textual)."""

from collections.abc import Callable

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding
from textual.widgets import DataTable, Footer, Static

from pyqmail.look.overview import Overview
from pyqmail.look.overview_text import cut, head_lines, oldest, row_cells
from pyqmail.protocol.control import Request
from pyqmail.send.control_client import QueueError

ROWS = 500  # of the table
FAILURES = 4
HEADS = ("message", "state", "age", "left", "tries", "next", "domain", "last answer")


class TopApp(App[None]):
    """``look`` takes an overview; ``order`` has a request done and says what came of it, by message, and a fault."""

    CSS = "#head {height: auto;} #failures {height: auto;} DataTable {height: 1fr;}"
    ENABLE_COMMAND_PALETTE = False
    BINDINGS = [  # noqa: RUF012  # textual reads the class's list
        Binding("h", "order('hold')", "hold"),
        Binding("r", "order('release')", "release"),
        Binding("t", "order('retry')", "try now"),
        Binding("d", "order('delete')", "delete"),
        Binding("q", "quit", "quit"),
    ]

    def __init__(
        self,
        look: Callable[[], Overview],
        order: Callable[[Request], tuple[dict[int, str], str]],
        interval_s: float,
    ) -> None:
        super().__init__()
        self._look, self._order, self._interval_s = look, order, interval_s
        self._sure: tuple[str, int] | None = None  # a deletion is asked for twice
        self.said = ""

    def compose(self) -> ComposeResult:
        """The widgets."""
        yield Static(id="head", markup=False)
        yield DataTable[Text](cursor_type="row", zebra_stripes=True)
        yield Static(id="failures", markup=False)
        yield Footer()

    def on_mount(self) -> None:
        """Begin."""
        self.query_one(DataTable).add_columns(*HEADS)
        self.refresh_all()
        self.set_interval(self._interval_s, self.refresh_all)

    def refresh_all(self) -> None:
        """Look again; the cursor stays on its message."""
        try:
            overview = self._look()
        except (OSError, QueueError) as error:
            self.query_one("#head", Static).update(f"the queue cannot be read: {error}")
            return
        width = max(40, self.size.width)
        self.query_one("#head", Static).update("\n".join(head_lines(overview, width)))
        table = self.query_one(DataTable)
        chosen = self.chosen()
        table.clear()
        rows = oldest(overview, ROWS)
        for row in rows:
            table.add_row(*(Text(cell) for cell in row_cells(row)), key=str(row.number))
        numbers = [row.number for row in rows]
        if chosen in numbers:
            table.move_cursor(row=numbers.index(chosen))
        failures = list(overview.flow.failures)[-FAILURES:] if overview.flow is not None else []
        told = [cut(f"{each.result:<8} {each.who} {each.text}", width) for each in failures]
        self.query_one("#failures", Static).update("\n".join([*told, self.said]))

    def chosen(self) -> int | None:
        """The message under the cursor."""
        table = self.query_one(DataTable)
        if not table.row_count:
            return None
        key = table.coordinate_to_cell_key(table.cursor_coordinate).row_key.value
        return int(key) if key else None

    def action_order(self, do: str) -> None:
        """Give an order for the message under the cursor; to delete, the key has to be pressed twice."""
        number = self.chosen()
        if number is None:
            return
        if do == "delete" and self._sure != (do, number):
            self._sure = do, number
            self.said = f"delete message {number}, whose sender will hear nothing? press d again"
        else:
            self._sure = None
            try:
                states, trouble = self._order(Request(do, (number,)))
                self.said = trouble or f"{do} {number}: {states.get(number, 'unknown')}"
            except (QueueError, OSError) as error:
                self.said = f"{do} {number}: {error}"
        self.refresh_all()
