"""Feature sets are written in the layout of Neuronpedia and read back."""

import pytest

import qs_helpers as qs
from qs_helpers.tiny import corpus


def test_a_feature_set_is_written_and_read_back(tmp_path):
    scope = qs.load_scope("tiny")
    texts = [d.text for d in corpus.documents(40, "discovery")]
    found = qs.views.scan_corpus(scope, texts, [3], folder=tmp_path / "cache")
    feature = int(found.stats(3)["fired"].argmax())
    path = qs.views.export_neuronpedia(tmp_path, scope, found, 3, [feature, 5], "tiny world")
    assert path.name == "batch-0.json"
    features = qs.views.read_neuronpedia(path)
    assert list(features) == [feature, 5]
    one = features[feature]
    assert one["frac_nonzero"] == pytest.approx(found.density(3)[feature])
    assert sum(one["freq_hist_data_bar_heights"]) == found.stats(3)["fired"][feature]
    assert len(one["pos_str"]) == len(one["neg_values"]) == 10
    assert one["vector"] == pytest.approx(scope.sae(3).direction(feature)[0].tolist())
    top = one["activations"][0]
    assert top["values"][top["qualifying_token_index"]] == pytest.approx(top["bin_max"])
    assert "".join(top["tokens"]).strip() in texts[int(found.top(3, feature)["text"][0])]


@pytest.mark.parametrize("content", ["[]", "{}", "no json", '{"features": [{}]}'])
def test_another_file_is_refused_by_name(tmp_path, content):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(ValueError, match="x.json is no SAEDashboard batch"):
        qs.views.read_neuronpedia(tmp_path / "x.json")
