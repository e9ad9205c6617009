import re

from monitored_world import SPEC, answer, held, world

from training_core.monitoring import DriftConfig, ProfileConfig, compare, make_profile, write_html
from training_core.schema import ColumnSpec, ModalitySpec

SMALL = ProfileConfig(num_frequencies=32, num_projections=8)
HOSTILE = "<script>alert('x')</script>"


def test_a_page_shows_what_moved_and_needs_nothing_else():
    profile = make_profile(held(world(800)), HOSTILE, answer, SMALL)
    past = [compare(profile, held(world(200, k)), predict=answer, label=str(k)) for k in range(2)]
    samples = world(300, 9, shift={"facts": 1.5, "left": 1.0}, missing={"photo": 0.7})
    samples.inputs["facts"][:, 2] = 1.0
    report = compare(profile, held(samples), predict=answer, label=HOSTILE)
    page = write_html(report, past)
    assert "<script" not in page
    assert not re.search(r"(src|href)=", page)
    for title in ("What moved", "Window by window", "Features", "What is missing", "Arrays and texts as a whole"):
        assert title in page
    assert page.count("<svg") >= 4
    assert "input/facts.size" in page
    assert "green" in page


def test_a_quiet_a_small_and_a_constant_window_have_pages():
    profile = make_profile(held(world(400)), "world", config=SMALL)
    quiet = write_html(compare(profile, held(world(200, 3)), DriftConfig(significance=1e-9)))
    assert "What moved" not in quiet
    assert "no drift" in quiet
    assert "too few rows" in write_html(compare(profile, held(world(3))))
    still = world(200)
    still.inputs["left"][:] = 1.0
    constant = make_profile(held(still), "still", config=SMALL)
    moved = world(200)
    moved.inputs["left"][:] = 2.0
    assert "∞" in write_html(compare(constant, held(moved)))


def test_hostile_names_of_columns_and_categories_stay_text():
    columns = (ColumnSpec(name=HOSTILE), ColumnSpec(name="kind", categories=(HOSTILE, "b|c")))
    spec = SPEC.model_copy(
        update={"modalities": (ModalitySpec(name="facts", kind="tabular", shape=(2,), columns=columns),)}
    )

    def rows(code):
        samples = world(100).select(["facts"], {"facts": [0, 2]})
        samples.inputs["facts"][:, 1] = code
        samples.inputs["facts"][:, 0] += 3 * code
        samples.available["facts"][:] = True
        return held(samples, spec)

    page = write_html(compare(make_profile(rows(0), "world", config=SMALL), rows(1)))
    assert "What moved" in page
    assert "<script" not in page
