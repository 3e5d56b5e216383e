"""What a notebook shows of a Variable, a model and a run."""

from __future__ import annotations

import math
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest

import tellurio_sync as te
from tellurio_sync import cards, console
from tellurio_sync.errors import HttpUnreachable
from tellurio_sync.local import LocalBackend
from tellurio_sync.studio.runs import Run

from ..session.conftest import KEY, MakeSession

EVIL = "<script>alert('x')</script>\" onload=\"y"


class Reader(HTMLParser):
    """Checks that every tag is closed in order, and collects tags and text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)
        self.tags.append((tag, dict(attrs)))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_every_text_is_escaped() -> None:
    html = cards.card(
        EVIL,
        EVIL,
        [
            cards.text_block(EVIL),
            cards.text_block([EVIL]),
            cards.table([(EVIL, EVIL)]),
            cards.plot(EVIL, [1.0]),
            cards.link(EVIL),
        ],
        EVIL,
    )
    read = Reader(html)
    assert not {"script"} & {tag for tag, _ in read.tags}
    assert not any("onload" in attributes for _, attributes in read.tags)
    assert read.text.count(EVIL) == 10


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        ("short", "short"),
        ("x" * 5000, "x" * 600 + " … (4,400 more characters)"),
        (["a", "b"], "ab"),
        ([str(n) for n in range(300)], "01234and 295 more"),
        (3.5, "3.5"),
        (None, "None"),
    ],
)
def test_data_is_shortened(data: object, shown: str) -> None:
    assert Reader(cards.text_block(data)).text == shown


@pytest.mark.parametrize("values", [[1.0], [1.0, 1.0], [0.0, math.nan, 2.0], [-1e308, 1e308], [1.0, math.inf]])
def test_a_plot_has_only_finite_places_within_its_frame(values: list[float]) -> None:
    read = Reader(cards.plot("loss", values))
    lines = [attributes["points"] for tag, attributes in read.tags if tag == "polyline"]
    assert lines
    for line in lines:
        for point in str(line).split():
            x, y = map(float, point.split(","))
            assert 0 <= x <= 160
            assert 0 <= y <= 36


def test_a_plot_without_a_number_says_so() -> None:
    assert Reader(cards.plot("loss", [math.nan])).text == "loss: no number"


def test_the_highest_value_is_at_the_top() -> None:
    (line,) = [a["points"] for tag, a in Reader(cards.plot("m", [0.0, 1.0])).tags if tag == "polyline"]
    low, high = (float(point.split(",")[1]) for point in str(line).split())
    assert high < low


# --- Variables, models, runs ------------------------------------------------------------------------


def test_a_variable_shows_its_role_data_and_gradients(session: te.Session) -> None:
    prompt = te.Parameter("Be <b>polite</b>.", role="system prompt")
    assert Reader(prompt._repr_html_()).text == "Parameter system promptBe <b>polite</b>.requires_grad=True"
    te.functional.add(prompt, te.Variable(" Now.")).backward(te.Variable("Say when.", role="feedback"))
    text = Reader(prompt._repr_html_()).text
    assert "1 gradient" in text
    assert "Say when" in str(prompt.grad[0].data)


def test_a_variable_that_the_server_works_on_says_so_and_does_not_wait(session: te.Session) -> None:
    prompt = te.Parameter("x", role="p")
    session.registries.mark_pending([prompt], "_pending_data")
    try:
        assert "the server works on" in Reader(prompt._repr_html_()).text
    finally:
        session.registries.clear_pending([prompt], "_pending_data")


def test_ipython_shows_a_long_text_shortened(session: te.Session) -> None:
    class Printer:
        text_of_it = ""

        def text(self, text: str) -> None:
            self.text_of_it += text

    printer = Printer()
    te.Variable("x" * 5000, role="r")._repr_pretty_(printer, False)
    assert printer.text_of_it == f"variable({'x' * 20}...{'x' * 20}, role=r, requires_grad=False)"


def test_a_model_shows_tokens_and_cost_and_no_key(session: te.Session) -> None:
    address = "http://user:pass-word@127.0.0.1:1/v1?key=geheim"
    model = te.OpenAI(api_key="sk-geheim", base_url=address)
    usage = {**model.get_usage(), "total_tokens": 1234, "prompt_tokens": 1200, "completion_tokens": 34}
    model.take_usage({**usage, "cost": {"amount": 0.25, "currency": "USD"}})
    text = Reader(model._repr_html_()).text
    assert text == "OpenAI 127.0.0.1:1tokens1,234of questions1,200of answers34cost$0.2500"
    model.take_usage({**usage, "cost": {"amount": 0.25, "currency": "USD", "unpriced_tokens": 12}})
    assert "unknown for 12 tokens, $0.2500 for the others" in Reader(model._repr_html_()).text


def test_a_run_shows_a_plot_of_each_metric_and_its_link(session: te.Session) -> None:
    with session.init(None, "Cards", "my run") as run:
        for value in (1.0, 0.5, 0.25):
            run.log({"loss": value, "text": "no number"})
        read = Reader(run._repr_html_())
        assert [a["href"] for tag, a in read.tags if tag == "a"] == [run.link]
        assert "my run Cards · RUNNING" in read.text
        assert "loss 0.25" in read.text
        assert len([tag for tag, _ in read.tags if tag == "svg"]) == 1
    # What was logged has gone to the server, and comes from there.
    assert "loss 0.25" in Reader(run._repr_html_()).text


def test_a_run_that_cannot_be_read_is_shown_all_the_same(session: te.Session, monkeypatch: pytest.MonkeyPatch) -> None:
    run = session.init(None, "Cards")

    def fail(self: Run, name: str | None = None) -> object:
        raise HttpUnreachable("nobody there")

    monkeypatch.setattr(Run, "metrics", fail)
    assert "The metrics cannot be read: nobody there" in Reader(run._repr_html_()).text


def test_a_run_of_a_local_backend_has_a_link_that_opens_and_that_no_pickle_holds(session: te.Session) -> None:
    import pickle

    run = session.init(None, "Cards")
    run.page_query = "token=geheim"
    assert run.link == f"{run.url}?token=geheim"
    assert "geheim" not in repr(run)
    assert pickle.loads(pickle.dumps(run)).link == run.url


def test_init_says_where_to_look_in_one_line(
    session: te.Session, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = "nowhere"
    monkeypatch.setattr(console, "where_to_show", lambda: place)
    session.init(None, "Lines")
    assert capsys.readouterr() == ("", "")
    place = "notebook"
    run = session.init(None, "Lines")
    assert capsys.readouterr() == (f"run {run.name}: {run.link}\n", "")
    place = "terminal"
    run = session.init(None, "Lines", mode="offline")
    assert capsys.readouterr() == ("", f"run {run.name}: offline: te.sync() sends it later\n")
    run.finish()


@pytest.mark.parametrize("public_url", ["", "https://hub.example/user/me/"])
def test_on_a_hub_links_lead_through_it(
    make_session: MakeSession, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], public_url: str
) -> None:
    monkeypatch.setenv("JUPYTERHUB_SERVICE_PREFIX", "/user/me/")
    monkeypatch.setenv("JUPYTERHUB_PUBLIC_URL", public_url)
    monkeypatch.setattr("tellurio_sync.addresses.find_spec", lambda name: object())
    monkeypatch.setattr("tellurio_sync.studio.runs.where_to_show", lambda: "notebook")
    monkeypatch.setattr(console, "where_to_show", lambda: "notebook")
    ready = {"http_base_url": "http://127.0.0.1", "http_port": 7862, "ws_base_url": "ws://127.0.0.1", "ws_port": 7862}
    ready |= {"api_key": "k", "username": "me", "namespace": "local", "page_url": "http://127.0.0.1:7862/?token=geheim"}
    backend = LocalBackend(ready, SimpleNamespace(pid=1, is_alive=True))  # type: ignore[arg-type]
    base = f"{public_url or '/user/me/'}proxy/7862"
    assert backend.page_url == f"{base}/?token=geheim"
    session = make_session()
    session.login(KEY)
    monkeypatch.setattr(te.Session, "page_url", backend.page_url)
    run = session.init(None, "Hub", name="calm river")
    address = f"{base}/local/projects/hub/runs/calm-river/"
    assert (run.url, run.link) == (address, f"{address}?token=geheim")
    said = "run.open() opens it" if public_url else "on this hub (print(run.link) adds the token)"
    assert said in capsys.readouterr().out
    assert f'<a href="{address}"' in run._repr_html_()
    monkeypatch.setenv("BROWSER", "a browser")
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda link: not opened.append(link))
    if public_url:
        run.open()
    else:
        with pytest.raises(te.UsageError, match="no browser on this machine"):
            run.open()
    assert opened == ([run.link] if public_url else []), "a path would be taken for a file"
    run.finish()


def test_in_a_notebook_no_token_is_shown_and_the_run_can_be_opened(
    session: te.Session, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with session.use():
        run = te.init(project_display_name="Open")
    run.page_query = "token=geheim"
    for place, is_shown in (("notebook", False), ("terminal", True)):
        monkeypatch.setattr("tellurio_sync.studio.runs.where_to_show", lambda place=place: place)
        monkeypatch.setattr(console, "where_to_show", lambda place=place: place)
        run.show_begin()
        shown = "".join(capsys.readouterr()) + run._repr_html_()
        assert ("geheim" in shown) is is_shown
        assert ("run.open() opens it" in shown) is not is_shown
    opened: list[str] = []
    monkeypatch.setenv("BROWSER", "a browser")
    monkeypatch.setattr("webbrowser.open", lambda link: not opened.append(link))
    run.open()
    assert opened == [run.link]
    monkeypatch.setattr("webbrowser.open", lambda link: False)
    with pytest.raises(te.UsageError, match=r"no browser.*print\(run\.link\).*clear the output"):
        run.open()
    run.finish()


def test_a_table_with_headings_is_escaped_and_has_its_numbers_at_the_right() -> None:
    html = cards.grid(["<kind>", "asked"], [("<b>", 1234), ("x", 0.5)])
    assert "&lt;kind&gt;" in html
    assert "<b>" not in html
    assert html.count("<th") == 2
    assert html.count("text-align:right") == 2
    assert ">1,234<" in html
