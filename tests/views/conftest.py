"""The tiny scope and a scan of its texts, for all views."""

import pytest

import qs_helpers as qs
from qs_helpers.tiny import corpus


@pytest.fixture(scope="module")
def scope():
    return qs.load_scope("tiny")


@pytest.fixture(scope="module")
def found(scope, tmp_path_factory):
    texts = [d.text for d in corpus.documents(80, "discovery")]
    return qs.views.scan_corpus(scope, texts, folder=tmp_path_factory.mktemp("cache"))
