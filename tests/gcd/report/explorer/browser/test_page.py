"""The page in a real browser: a person's way through it, by mouse and by keyboard."""

import pytest

from tests.gcd.report.explorer import found
from tests.gcd.report.explorer.browser.saved import items_of, labels_after

pytestmark = pytest.mark.browser


def test_the_loop(opened, tmp_path):
    discovery = found.discovery()
    one = opened(discovery)
    page = one.page
    assert "60 items; 6 classes, 3 of them known" in page.inner_text("#summary")
    assert "63 % (55 % to 72 %)" in page.inner_text("#trust")

    one.open_cluster("novel-1")
    assert "10 items, 0 labeled" in page.inner_text("#detail")
    one.action("rename").click()
    one.answer(New_name="bird")
    one.says("Decided: novel-1 is called bird")
    assert page.inner_text("#detail-name") == "bird"  # it stays open

    one.check("novel-2", "novel-3")
    one.action("merge").click()
    one.answer(Name="fish")
    one.says("novel-2, novel-3 are one class, fish")

    one.open_cluster("fish")
    one.action("split").click()
    one.answer(Names="cod, eel")
    one.says("fish is split into cod, eel")

    one.select("item 0", "item 1")  # 0 lies among the dogs
    one.action("known").click()
    one.answer(Class="dog")
    one.select("item 7", "item 8")
    one.action("together").click()
    one.says("item 7, item 8 belong together")
    one.select("item 9", "item 15")
    one.action("apart").click()
    one.select("item 5")
    one.action("junk").click()
    one.select("item 6")
    one.action("junk").click()
    one.action("undo").click()
    one.says("Taken back: item 6 is junk")

    one.open_cluster("cat")
    one.action("known").click()
    one.answer(Class="cat")
    one.tab("decisions")
    assert page.locator("#log li").count() == 8
    assert page.inner_text("#command") == (
        "eagc discover --settings animals-run/settings.json --decisions decisions.json"
    )
    told = page.inner_text("#decisions")
    assert "eagc predict animals-run NEW --decisions decisions.json" in told
    decisions, classes, constraints = labels_after(
        discovery, one.saved(tmp_path / "decisions.json")
    )
    assert len(decisions) == 8
    assert items_of(classes, "junk") == [5]
    # 9 and 15 are not both birds.
    birds = [i for i in range(60) if i % 6 == 3 and i not in (9, 15)]
    assert items_of(classes, "bird") == birds
    assert items_of(classes, "dog")[:3] == [0, 1, 13]
    assert items_of(classes, "cat") == [i for i in range(6, 60) if i % 6 == 0]
    parts = items_of(classes, "cod") + items_of(classes, "eel")
    assert sorted(parts) == [i for i in range(60) if i % 6 in (4, 5) and i != 5]
    assert [len(rows) for rows in constraints.together] == [2]
    assert classes["item 7"] == classes["item 8"] == "fox" or not classes["item 7"]


def test_the_loop_by_keyboard_alone(opened, tmp_path):
    discovery = found.discovery()
    one = opened(discovery)
    page = one.page
    one.press("n", "n", "n", "n")
    focused = page.evaluate("document.activeElement.id")
    assert (focused, page.inner_text("#detail-name")) == ("detail-name", "cat")
    one.press("p")
    assert page.inner_text("#detail-name") == "novel-3"
    one.press("r", "Control+A")
    page.keyboard.type("newt")
    one.press("Enter")
    one.says("Decided: novel-3 is called newt")

    one.press("Escape", "/")
    page.keyboard.type("novel-1")
    # On to the first item, by Tab alone.
    for _ in range(30):
        if page.evaluate("'item' in document.activeElement.dataset"):
            break
        one.press("Tab")
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"  # the focus can be seen
    one.press("Space", "Tab", "Tab", "Space")
    assert page.inner_text("#target").startswith("On: 2 items")
    one.press("t")
    one.says("belong together")

    one.press("/", "Escape")  # no search any more
    one.press("g")
    assert page.evaluate("document.activeElement.id") == "map"
    one.press("ArrowRight", "Space", "ArrowDown", "+", "0", "Enter")
    assert page.evaluate("document.activeElement.id") == "detail-name"
    one.press("j")
    one.says("is junk")
    one.press("z", "Escape", "n", "c", "n", "c", "m")
    page.wait_for_selector("#dialog[open]")
    page.keyboard.press("Enter")
    one.says("are one class")
    one.press("?")
    assert page.locator("#dialog table").is_visible()
    one.press("Escape", "4")
    assert page.locator("#decisions").is_visible()
    path = one.saved(tmp_path / "by keys.json", lambda: one.press("w"))
    decisions, classes, _ = labels_after(discovery, path)
    assert [d.action for d in decisions.rounds[0].decisions] == [
        *("rename", "together", "merge"),
    ]
    merge = decisions.rounds[0].decisions[2]
    assert len(merge.clusters) == 2
    assert classes["item 11"] == (merge.name if "newt" in merge.clusters else "newt")


def test_every_button_has_a_name_and_can_be_reached(opened):
    one = opened(found.discovery("image"))
    for tab in ("clusters", "items", "check", "decisions", "training", "about"):
        one.tab(tab)
        unnamed = one.page.evaluate(
            """() => [...document.querySelectorAll("button, input, select, canvas")]
              .filter((e) => e.checkVisibility() && !e.closest("[role=img][aria-label]"))
              .filter((e) => !(e.textContent.trim() || e.ariaLabel || e.labels?.length))
              .map((e) => e.outerHTML)"""
        )
        assert unnamed == []
        behind = one.page.evaluate(
            """() => [...document.querySelectorAll("button")]
              .filter((e) => e.tabIndex < 0 && e.role !== "tab").length"""
        )
        assert behind == 0


@pytest.mark.parametrize("kind", ["text", "image"])
def test_a_phone(opened, kind, tmp_path):
    discovery = found.discovery(kind, names=(*found.NAMES[:5], "w" * 150))
    one = opened(discovery, width=360, height=740, has_touch=True)
    page = one.page
    for tab in ("clusters", "items", "check", "decisions", "training", "about"):
        one.tab(tab)
        if tab == "clusters":
            one.open_cluster("novel-1")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        wide = page.evaluate(
            """() => [...document.querySelectorAll("button, input, select, img, canvas")]
              .filter((e) => e.checkVisibility() && !e.closest(".scroll"))
              .filter((e) => e.getBoundingClientRect().right > 361)
              .map((e) => e.outerHTML.slice(0, 200))"""
        )
        assert wide == []
    one.open_cluster("novel-1")
    one.action("rename").tap()
    one.answer(New_name="bird")
    page.locator("#detail .item > button:first-child").first.tap()
    one.action("junk").tap()
    _, classes, _ = labels_after(discovery, one.saved(tmp_path / "phone.json"))
    assert len(items_of(classes, "bird")) == 9
    assert len(items_of(classes, "junk")) == 1


def test_light_and_dark(opened):
    one = opened(found.discovery())
    page = one.page

    def brightness(what):
        return page.evaluate(
            """(what) => {
              const style = getComputedStyle(document.querySelector(what));
              return [style.backgroundColor, style.color].map((color) =>
                color.match(/[\\d.]+/g).slice(0, 3).map(Number))
                .map(([red, green, blue]) => (red + green + blue) / 3);
            }""",
            what,
        )

    for what in ("body", "button", "#bar"):
        background, text = brightness(what)
        assert background > 230 > 90 > text
    page.emulate_media(color_scheme="dark")
    for what in ("body", "button", "#bar"):
        background, text = brightness(what)
        assert background < 60 < 200 < text
    one.tab("training")
    assert page.locator("#training canvas").count() == 5


def test_search_and_filters(opened):
    one = opened(found.discovery())
    page = one.page

    def shown():
        return page.locator("#items .item").count()

    page.fill("#query", "Sentence 1")
    assert page.inner_text("#items h2") == "11 items found"
    page.fill("#query", "of a novel-2")
    assert shown() == 10
    page.fill("#query", "")
    one.tab("items")
    for choice, number in (("known", 30), ("novel", 30), ("uncertain", 0)):
        page.select_option("#filter", choice)
        assert page.inner_text("#items h2").startswith(f"{number} items")
    page.select_option("#filter", "known")
    one.tab("clusters")
    assert page.locator("#clusters .cluster").count() == 3
    page.fill("#query", "no such thing")
    assert "0 items found" in page.inner_text("#items h2")


def test_the_map(opened):
    one = opened(found.discovery("image"))
    page = one.page
    where = page.locator("#map").bounding_box()

    def at(x, y):
        return where["x"] + x * where["width"], where["y"] + y * where["height"]

    def drag(*points):
        page.mouse.move(*at(*points[0]))
        page.mouse.down()
        for point in points[1:]:
            page.mouse.move(*at(*point), steps=4)
        page.mouse.up()

    page.locator("[data-mode=box]").click()
    drag((0.001, 0.001), (0.998, 0.998))
    assert page.inner_text("#target") == "On: 60 items"
    page.locator("[data-mode=lasso]").click()
    drag((0.01, 0.01), (0.99, 0.01), (0.01, 0.99), (0.01, 0.02))
    some = int(page.inner_text("#target").split()[1])
    assert 0 < some < 60
    one.tab("items")
    assert page.locator("#items .item").count() == some
    one.action("clear").click()

    # Over some item there is its picture; a click selects it.
    page.locator("[data-mode=move]").click()
    spots = [(x / 40, y / 40) for y in range(1, 40) for x in range(1, 40)]
    for spot in spots:
        page.mouse.move(*at(*spot))
        if page.locator("#tip").is_visible():
            break
    assert page.locator("#tip img").evaluate("image => image.naturalWidth") > 0
    page.mouse.down()
    page.mouse.up()
    assert page.inner_text("#target") == "On: 1 item"
    page.locator("#zoom-in").click()
    drag((0.5, 0.5), (0.6, 0.6))
    page.locator("#zoom-reset").click()


def test_what_to_check_and_what_it_rests_on(opened):
    one = opened(found.discovery())
    page = one.page
    one.tab("check")
    told = page.inner_text("#check")
    assert "Label suspects (1)" in told
    assert "item 0\nlies in dog" in told
    assert "Near-duplicates (1)" in told
    page.get_by_role("button", name="Select both").first.click()
    assert page.inner_text("#target") == "On: 2 items"
    one.tab("training")
    told = page.inner_text("#training")
    for part in (
        *(
            "Chosen: trained. It was better in 7 of 8 rehearsals.",
            "90 % (80 % to 100 %)",
        ),
        *("likely 5 to 8", "Loss of each objective", "Gates: the factor", "Energy"),
        "trained with eagc: no time",
    ):
        assert part in told
    one.tab("about")
    told = page.inner_text("#about")
    for part in ("semi-supervised k-means", "0.8", "eagc_jax", "source.data", "seed"):
        assert part in told
    one.open_cluster("novel-1")
    told = page.inner_text("#detail")
    for part in (
        "Most typical",
        "Least certain",
        "Nearest known classes",
        "cat (cosine",
    ):
        assert part in told


def test_decisions_outlive_the_window(opened):
    one = opened(found.discovery())
    one.open_cluster("novel-1")
    one.action("rename").click()
    one.answer(New_name="bird")
    one.open()
    one.says("1 decision of your last visit are here again")
    assert one.page.locator("#clusters .open").filter(has_text="bird").count() == 1
    one.page.evaluate("localStorage.setItem(localStorage.key(0), '[{\"action\": 3}]')")
    one.open()
    assert one.page.inner_text("#tab-decisions") == "Decisions (0)"


def test_contradictions_are_refused(opened):
    one = opened(found.discovery())
    page = one.page
    one.select("item 9", "item 15")
    one.action("together").click()
    one.select("item 9", "item 15")
    one.action("apart").click()
    one.says("item 9 and item 15")
    one.action("clear").click()
    one.select("item 0", "item 1")  # labeled cat and dog
    one.action("together").click()
    one.says("one is of the class cat, the other of dog")
    assert page.inner_text("#tab-decisions") == "Decisions (1)"
    one.action("clear").click()
    one.open_cluster("novel-1")
    one.action("rename").click()
    for name, message in (
        ("dog", "dog is another class"),
        (" ", "a name is needed"),
        ("junk", "can't be called junk"),
    ):
        one.answer(New_name=name)
        assert message in page.inner_text("#dialog-error")
    page.locator("#dialog-cancel").click()
    assert page.inner_text("#tab-decisions") == "Decisions (1)"
