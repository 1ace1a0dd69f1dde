"""Rankers in the forms of other packages, within those packages themselves."""

from __future__ import annotations

import asyncio
import inspect
import subprocess
import sys
from operator import attrgetter

import numpy as np
import pytest
import torch
from ranked_lists import BUILDER, FILMS, TOKENIZER
from tiny import tiny_model

from irpo.integrations import needs
from irpo.integrations.cross_encoder import CrossEncoder
from irpo.ranking.reranker import Reranker
from irpo.scorers import Independent
from irpo.types import UserError

RANKER = Reranker(tiny_model(), TOKENIZER, BUILDER, Independent())
QUERY = "best movies"
ROWS = RANKER.rank(QUERY, FILMS)
MODULES = {
    "langchain": ("langchain_core", "langchain"),
    "llama_index": ("llama_index", "llama_index"),
    "rerankers": ("rerankers", "rerankers"),
}


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)


def test_irpo_loads_none_of_these_packages():
    others = [*(package for package, _ in MODULES.values()), "sentence_transformers"]
    code = "import irpo.cli, irpo.integrations, sys"
    assert python(f"{code}; print([m for m in {others} if m in sys.modules])").stdout.strip() == "[]"


@pytest.mark.parametrize("module", MODULES)
def test_a_package_that_is_missing_is_one_line_that_says_how_to_get_it(monkeypatch, module):
    package, name = MODULES[module]
    for loaded in [one for one in sys.modules if one.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"irpo.integrations.{module}", raising=False)
    with pytest.raises(ModuleNotFoundError, match=rf"is not installed: pip install 'irpo\[{name}\]'$"):
        __import__(f"irpo.integrations.{module}")


def test_another_error_of_a_package_is_its_own():
    with pytest.raises(ImportError, match="cannot import name"), needs("irpo"):
        from irpo.types import nothing  # noqa: F401


# ---- LangChain -------------------------------------------------------------------------------------------------------


@pytest.fixture
def langchain():
    return pytest.importorskip("irpo.integrations.langchain")


def chain_documents():
    from langchain_core.documents import Document

    return [Document(text, id=f"id {j}", metadata={"page": j}) for j, text in enumerate(FILMS)]


def test_langchain_compresses_documents(langchain):
    documents = chain_documents()
    found = langchain.IrpoRerank(reranker=RANKER, top_n=3).compress_documents(documents, QUERY)
    assert [(one.page_content, one.id) for one in found] == [(row.text, f"id {row.index}") for row in ROWS[:3]]
    assert [one.metadata for one in found] == [{"page": row.index, "relevance_score": row.score} for row in ROWS[:3]]
    assert documents == chain_documents()


def test_langchain_leaves_a_document_alone_the_score_that_it_came_with(langchain):
    (alone, *_) = chain_documents()
    compressor = langchain.IrpoRerank(reranker=RANKER)
    assert compressor.compress_documents([alone], QUERY)[0].metadata == {"page": 0, "relevance_score": None}
    alone.metadata["relevance_score"] = 0.9
    assert compressor.compress_documents([alone], QUERY) == [alone]


def test_langchain_asks_it_in_its_own_ways(langchain):
    from langchain_core.documents import BaseDocumentCompressor
    from langchain_core.embeddings import DeterministicFakeEmbedding
    from langchain_core.runnables import RunnableLambda
    from langchain_core.vectorstores import InMemoryVectorStore

    compressor = langchain.IrpoRerank(reranker=RANKER, mode="constrain")
    assert isinstance(compressor, BaseDocumentCompressor)
    store = InMemoryVectorStore(DeterministicFakeEmbedding(size=8))
    store.add_documents(chain_documents())

    def compress(documents):
        return compressor.compress_documents(documents, QUERY)

    async def acompress(documents):
        return await compressor.acompress_documents(documents, QUERY)

    chain = store.as_retriever(search_kwargs={"k": 4}) | RunnableLambda(compress, afunc=acompress)
    found = chain.invoke(QUERY)
    retrieved = [one.page_content for one in store.similarity_search(QUERY, k=4)]
    assert [one.page_content for one in found] == [row.text for row in RANKER.rank(QUERY, retrieved, "constrain")]
    assert [one.metadata["relevance_score"] for one in found] == [None] * 4
    assert asyncio.run(chain.ainvoke(QUERY)) == found


def test_langchain_refuses_what_is_no_option(langchain):
    for wrong in ({"reranker": "runs/x"}, {"reranker": RANKER, "topn": 3}, {"reranker": RANKER, "top_n": 0}):
        with pytest.raises(ValueError, match=r"reranker|topn|top_n"):
            langchain.IrpoRerank(**wrong)
    assert "reranker" not in langchain.IrpoRerank(reranker=RANKER).model_dump()
    assert langchain.IrpoRerank(reranker=RANKER).compress_documents([], QUERY) == []


# ---- LlamaIndex ------------------------------------------------------------------------------------------------------


@pytest.fixture
def llama_index():
    return pytest.importorskip("irpo.integrations.llama_index")


def nodes(**metadata):
    from llama_index.core.schema import NodeWithScore, TextNode

    return [
        NodeWithScore(node=TextNode(text=text, id_=f"id {j}", metadata=metadata), score=j)
        for j, text in enumerate(FILMS)
    ]


def test_llama_index_postprocesses_nodes(llama_index):
    given = nodes()
    rerank = llama_index.IrpoRerank(reranker=RANKER, top_n=3)
    found = rerank.postprocess_nodes(given, query_str=QUERY)
    assert [(one.node.text, one.node.id_, one.score) for one in found] == [
        (row.text, f"id {row.index}", row.score) for row in ROWS[:3]
    ]
    assert [one.score for one in given] == list(range(len(FILMS)))
    assert asyncio.run(rerank.apostprocess_nodes(given, query_str=QUERY)) == found
    assert rerank.postprocess_nodes([], query_str=QUERY) == []
    with pytest.raises(UserError, match="give query_str or query_bundle"):
        rerank.postprocess_nodes(given)
    with pytest.raises(ValueError, match="topn"):
        llama_index.IrpoRerank(reranker=RANKER, topn=3)
    assert "reranker" not in rerank.to_dict()


def test_llama_index_does_not_lose_a_node_that_is_alone(llama_index):
    from llama_index.core.postprocessor import SimilarityPostprocessor

    alone = nodes()[1:2]
    found = llama_index.IrpoRerank(reranker=RANKER).postprocess_nodes(alone, query_str=QUERY)
    assert [one.score for one in found] == [1.0]  # the retriever's
    assert SimilarityPostprocessor(similarity_cutoff=0.5).postprocess_nodes(found) == found


def test_llama_index_shows_the_metadata_that_it_is_told_to(llama_index):
    from llama_index.core.schema import MetadataMode

    given = nodes(year=1979)
    plain = llama_index.IrpoRerank(reranker=RANKER, metadata_mode=MetadataMode.NONE)
    assert [one.score for one in plain.postprocess_nodes(given, query_str=QUERY)] == [row.score for row in ROWS]
    texts = [f"year: 1979\n\n{text}" for text in FILMS]
    shown = llama_index.IrpoRerank(reranker=RANKER).postprocess_nodes(given, query_str=QUERY)
    assert [one.score for one in shown] == [row.score for row in RANKER.rank(QUERY, texts)]


def test_llama_index_has_it_in_a_query_engine(llama_index):
    from llama_index.core.llms import MockLLM
    from llama_index.core.query_engine import RetrieverQueryEngine
    from llama_index.core.retrievers import BaseRetriever

    class All(BaseRetriever):
        def _retrieve(self, query_bundle):
            return nodes()

    rerank = llama_index.IrpoRerank(reranker=RANKER, top_n=2)
    engine = RetrieverQueryEngine.from_args(All(), llm=MockLLM(), node_postprocessors=[rerank])
    assert [one.node.text for one in engine.query(QUERY).source_nodes] == [row.text for row in ROWS[:2]]


# ---- rerankers -------------------------------------------------------------------------------------------------------


@pytest.fixture
def rerankers():
    return pytest.importorskip("irpo.integrations.rerankers")


def test_rerankers_gets_its_own_results(rerankers):
    from rerankers import Document
    from rerankers.models.ranker import BaseRanker
    from rerankers.results import RankedResults

    ranker = rerankers.IrpoRanker(RANKER)
    found = ranker.rank(QUERY, list(FILMS), doc_ids=[f"id {j}" for j in range(len(FILMS))])
    assert isinstance(ranker, BaseRanker)
    assert isinstance(found, RankedResults)
    assert [(one.text, one.doc_id, one.score, one.rank) for one in found] == [
        (row.text, f"id {row.index}", row.score, row.rank) for row in ROWS
    ]
    assert [one.text for one in found.top_k(2)] == [row.text for row in ROWS[:2]]
    assert found.get_score_by_docid("id 0") == next(row.score for row in ROWS if row.index == 0)
    own = ranker.rank(QUERY, [Document(text, doc_id=j, metadata={"page": j}) for j, text in enumerate(FILMS)])
    assert [(one.doc_id, one.page) for one in own] == [(row.index, row.index) for row in ROWS]
    assert [one.doc_id for one in asyncio.run(ranker.rank_async(QUERY, list(FILMS)))] == [row.index for row in ROWS]


def test_rerankers_without_scores_have_ranks(rerankers):
    ranker = rerankers.IrpoRanker(RANKER, mode="constrain")
    found = ranker.rank(QUERY, list(FILMS))
    assert not found.has_scores
    assert [one.doc_id for one in found.top_k(3)] == [row.index for row in RANKER.rank(QUERY, FILMS, "constrain")[:3]]
    assert ranker.rank(QUERY, []).results_count() == 0
    assert ranker.rank(QUERY, "Alien").top_k(1)[0].text == "Alien"
    with pytest.raises(UserError, match="call rank"):
        ranker.score(QUERY, "Alien")


def test_rerankers_may_be_loaded_by_name(rerankers):
    ranker = rerankers.IrpoRanker("embedded", verbose=0, style="label")
    assert ranker.reranker.builder.style == "label"
    assert ranker.rank("a funny film", list(FILMS[:3])).results_count() == 3
    with pytest.raises(UserError, match="style: options of loading"):
        rerankers.IrpoRanker(RANKER, style="label")


# ---- sentence-transformers -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """A cross-encoder of that package, of random weights and our tokenizer."""
    package = pytest.importorskip("sentence_transformers")
    from transformers import BertConfig, BertForSequenceClassification

    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = BertConfig(vocab_size=len(TOKENIZER), num_labels=1, pad_token_id=TOKENIZER.pad_token_id, **shape)
    folder = str(tmp_path_factory.mktemp("cross-encoder"))
    BertForSequenceClassification(config).save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)
    return package.CrossEncoder(folder, device="cpu")


OURS = CrossEncoder(RANKER)


def test_a_cross_encoder_refuses_the_counts_that_a_ranker_refuses():
    with pytest.raises(UserError, match="top_k is 0; give a whole number from 1"):
        OURS.rank(QUERY, FILMS, top_k=0)


@pytest.mark.parametrize("name", ["rank", "predict", "model_card_data.set_evaluation_metrics"])
def test_a_cross_encoder_takes_what_theirs_takes(theirs, name):
    def form(method):
        return [(p.name, p.kind, p.default) for p in inspect.signature(method).parameters.values()]

    assert form(attrgetter(name)(OURS)) == form(attrgetter(name)(theirs))


@pytest.mark.parametrize(
    "how", [{}, {"top_k": 2}, {"top_k": 100, "return_documents": True}, {"return_documents": True, "batch_size": 2}]
)
def test_a_cross_encoder_gives_what_theirs_gives(theirs, how):
    ours, other = OURS.rank(QUERY, FILMS, **how), theirs.rank(QUERY, list(FILMS), **how)
    assert [{key: type(value) for key, value in row.items()} for row in ours] == [
        {key: type(value) for key, value in row.items()} for row in other
    ]
    assert [(row["corpus_id"], row["score"]) for row in ours] == [(row.index, row.score) for row in ROWS[: len(ours)]]
    assert all(row.get("text", FILMS[row["corpus_id"]]) == FILMS[row["corpus_id"]] for row in ours)


PAIRS = [(QUERY, text) for text in FILMS]


@pytest.mark.parametrize("how", [{}, {"convert_to_tensor": True}, {"convert_to_numpy": False}])
@pytest.mark.parametrize("inputs", [PAIRS, [list(pair) for pair in PAIRS], PAIRS[0], np.array(PAIRS), []])
def test_a_cross_encoder_predicts_in_their_forms(theirs, inputs, how):
    def form(found):
        if isinstance(found, list):
            return [form(one) for one in found]
        return (
            type(found),
            getattr(found, "shape", None),
            str(getattr(found, "dtype", None)).replace("float64", "float32"),
        )

    assert form(OURS.predict(inputs, **how)) == form(theirs.predict(inputs, **how))


def test_pairs_of_one_query_are_one_list_wherever_they_stand():
    mixed = [("space", "Heat"), PAIRS[0], ("space", "Alien"), *PAIRS[1:]]
    found = OURS.predict(mixed)
    space = {row.text: row.score for row in RANKER.rank("space", ["Heat", "Alien"])}
    film = {row.text: row.score for row in ROWS}
    np.testing.assert_allclose(found, [(space if query == "space" else film)[text] for query, text in mixed], rtol=1e-6)


def test_without_scores_they_are_one_by_rank():
    ranker = CrossEncoder(RANKER, "constrain")
    assert [row["score"] for row in ranker.rank(QUERY, FILMS[:4])] == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4])
    assert OURS.rank(QUERY, ["Heat"]) == [{"corpus_id": 0, "score": 1.0}]
    assert OURS.rank(QUERY, []) == []


def test_an_activation_is_applied():
    found = OURS.rank(QUERY, FILMS, activation_fn=lambda scores: torch.sigmoid(scores / 10))
    assert [row["corpus_id"] for row in found] == [row.index for row in ROWS]
    assert all(0 < row["score"] < 1 for row in found)


def test_what_a_ranker_does_not_have_is_refused():
    for wrong in ({"prompt": "Find"}, {"device": "cpu"}, {"pool": {}}, {"chunk_size": 3}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            OURS.rank(QUERY, FILMS, **wrong)
    for inputs in ([QUERY], [(QUERY, "a", "b")], [(QUERY, 3)], [PAIRS[0], None]):
        with pytest.raises(UserError, match=r"inputs\[\d\] is .*; give a pair of texts"):
            OURS.predict(inputs)


def test_their_evaluator_measures_it(theirs):
    from sentence_transformers.cross_encoder.evaluation import CrossEncoderRerankingEvaluator

    best, worst = ROWS[0].text, ROWS[-1].text
    samples = [{"query": QUERY, "positive": [best], "negative": [text for text in FILMS if text != best]}]
    samples += [{"query": QUERY + "!", "positive": [worst], "negative": [text for text in FILMS if text != worst]}]
    found = CrossEncoderRerankingEvaluator(samples, at_k=10, name="films", write_csv=False)(OURS)
    rank = next(row.rank for row in RANKER.rank(QUERY + "!", [worst, *samples[1]["negative"]]) if row.text == worst)
    assert found["films_mrr@10"] == pytest.approx((1 + 1 / rank) / 2)


def test_their_evaluators_of_pairs_measure_it(theirs):
    from sentence_transformers.cross_encoder import evaluation

    pairs, scores = [list(pair) for pair in PAIRS], OURS.predict(PAIRS).tolist()
    best = sorted(scores)[-2]
    correlation = evaluation.CrossEncoderCorrelationEvaluator(pairs, scores, name="films", write_csv=False)
    classes = evaluation.CrossEncoderClassificationEvaluator(pairs, [int(s >= best) for s in scores], write_csv=False)
    assert correlation(OURS)["films_spearman"] == pytest.approx(1)
    assert classes(OURS)["average_precision"] == pytest.approx(1)
