"""vLLM behind `irpo.ranking.engines`: in this process, or a server; both are spoken to in token ids alone.

Transcribed from vLLM 0.33. What is not exact, as against `transformers` in this process:

- dtype and kernels: vLLM computes in the weights' dtype (bfloat16 where nothing is said), multiplies an adapter in it
  unmerged, sums in another order; logits become log-probabilities in float32 in both. In bfloat16 a candidate's sum
  moves by some hundredths of a nat, and near ties change places;
- batches: a number depends on what else is in the batch, and so on the time, unless vLLM runs with
  VLLM_BATCH_INVARIANT=1;
- a server's dtype, KV cache dtype (fp8), quantization and revision of the weights are its own, and it does not tell;
- soft-caps (Gemma 2) and sliding windows are vLLM's own code;
- a log-probability below -9999 comes back from a server as -9999.

What is exact: the tokens. A prompt is sent as ids, spans of candidates are those of our own encoding, answers come
back as ids. A label's log-probability is read by its id (`logprob_token_ids`), of the whole vocabulary, before any
processor: neither vLLM's `max_logprobs` nor a mask has a say in it.
"""
