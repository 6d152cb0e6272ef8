"""The picture of one feature: what it shows is what the scan, the lens and the texts say."""

import numpy as np
import pandas as pd
import pytest

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


@pytest.mark.parametrize(
    ("pairs", "whole", "most"),
    [
        ([("en", "fr", 20), ("en", "ja", 0), ("fr", "ja", 5)], 20, 25),  # fr shares 20 and 5
        ([("en", "fr", 2)], 20, 20),  # two of twenty are a tenth of an arc
    ],
)
def test_a_band_is_as_wide_as_what_is_shared(pairs, whole, most):
    rows = [("a", *pair, 1.0) for pair in pairs]
    shared = pd.DataFrame(rows, columns=["panel", "first", "second", "shared", "by chance"])
    names = list(dict.fromkeys([*shared["first"], *shared["second"]]))
    fig = qs.views.picture.chords(shared, names, whole, "shared")
    (ax,) = fig.axes
    bands = [
        patch for patch in ax.patches if hasattr(patch, "get_path") and len(patch.get_path()) > 20
    ]
    first = [
        np.unwrap(np.arctan2(*patch.get_path().vertices[[0, 8]].T[::-1]))
        for patch in bands[-len(pairs) :]
    ]
    widths = sorted(float(end - start) for start, end in first)
    arc = 2 * np.pi / len(names)
    assert np.allclose(widths, np.sort(shared.shared) * 0.84 * arc / most)
    said = f"{shared.shared.mean():.1f} of {whole} shared"
    assert ax.get_title() == "a" and said in [t.get_text() for t in ax.texts][-1]


def test_shares_say_of_how_many_and_leave_out_what_is_not_there():
    table = pd.DataFrame({"en": [0.5, np.nan], "fr": [0.0, 1.0]}, index=["story", "list"])
    counts = pd.DataFrame({"en": [4, np.nan], "fr": [3, 2]}, index=table.index)
    (ax,) = qs.views.picture.shares(table, counts, "fires").axes
    assert [text.get_text() for text in ax.texts] == ["50% of 4", "0% of 3", "100% of 2"]
