"""The picture of one feature: what it shows is what the scan, the lens and the texts say."""

import numpy as np
import pandas as pd

import qs_helpers as qs
from qs_helpers.scoring import nearest


def where(fires=(True, False, True)):
    texts = {"kind": ["story", "story", "list"], "language": ["en", "fr", "en"]}
    return pd.DataFrame({**texts, "fires": fires})


def shown(fig) -> list[str]:
    axes = [ax for part in fig.subfigs for ax in part.axes]
    return [ax.get_title() or ax.get_title("left") for ax in axes]


def test_points_and_words_are_what_was_measured(scope, found):
    feature = int(found.density(2).argmax())
    fig, points, alt = qs.views.dashboard(scope, found, 2, feature, where(), "guess: bread")
    assert f"density {found.density(2)[feature]:.2%} (line)" in shown(fig)
    assert fig.get_suptitle() == f"tiny · layer 2 · feature {feature} · guess: bread"
    assert "list 1.00, story 0.50" in alt and f"layer 2, feature {feature}" in alt
    shares = points[points.language.notna() & points.value.notna()]
    shares = shares.set_index(["kind", "language"]).value
    assert (shares["story", "en"], shares["story", "fr"], shares["list", "en"]) == (1, 0, 1)
    near = nearest(scope, 2, feature)
    assert points.value[points.feature.notna()].tolist() == near.cosine.tolist()
    strips = points.value[points.kind.fillna("").str.startswith("tenth")]
    assert strips.is_monotonic_decreasing and len(strips) > 0


def test_a_feature_that_never_fires_has_a_dashboard(scope, found):
    feature = int((found.density(2) == 0).argmax())
    assert found.density(2)[feature] == 0
    fig, points, alt = qs.views.dashboard(scope, found, 2, feature, where([False] * 3), "")
    assert "density 0.00% (line)" in shown(fig) and "fires nowhere in this corpus" in alt
    axes = [ax for part in fig.subfigs for ax in part.axes]
    said = [text.get_text() for ax in axes for text in ax.texts]
    assert said.count("fires nowhere in this corpus") == 2  # no histogram, no contexts
    assert not points.kind.fillna("").str.startswith("tenth").any()


def test_a_band_is_as_wide_as_what_is_shared():
    rows = [("a", "en", "fr", 20, 1.0), ("a", "en", "ja", 0, 1.0), ("a", "fr", "ja", 5, 1.0)]
    shared = pd.DataFrame(rows, columns=["panel", "first", "second", "shared", "by chance"])
    fig = qs.views.picture.chords(shared, ["en", "fr", "ja"], 20, "shared")
    (ax,) = fig.axes
    bands = [
        patch for patch in ax.patches if hasattr(patch, "get_path") and len(patch.get_path()) > 20
    ]
    first = [
        np.unwrap(np.arctan2(*patch.get_path().vertices[[0, 8]].T[::-1])) for patch in bands[-3:]
    ]
    widths = sorted(float(end - start) for start, end in first)
    assert np.allclose(
        widths, np.array([0, 5, 20]) * 0.84 * (2 * np.pi / 3) / 25
    )  # fr shares 20 and 5
    assert ax.get_title() == "a" and "8.3 of 20 shared" in [t.get_text() for t in ax.texts][-1]


def test_shares_say_of_how_many_and_leave_out_what_is_not_there():
    table = pd.DataFrame({"en": [0.5, np.nan], "fr": [0.0, 1.0]}, index=["story", "list"])
    counts = pd.DataFrame({"en": [4, np.nan], "fr": [3, 2]}, index=table.index)
    (ax,) = qs.views.picture.shares(table, counts, "fires").axes
    assert [text.get_text() for text in ax.texts] == ["50% of 4", "0% of 3", "100% of 2"]
