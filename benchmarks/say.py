"""Lets an exported language model speak, with nothing but transformers: python benchmarks/say.py DIR"""

import sys

from transformers import AutoModelForCausalLM, AutoTokenizer

folder = sys.argv[1]
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder)
for prompt in ("The capital of France is", "Once upon a time, there was"):
    inputs = tokenizer(prompt, return_tensors="pt")
    ids = model.generate(**inputs, max_new_tokens=24, do_sample=False, repetition_penalty=1.2)
    sys.stdout.write(f"  {tokenizer.decode(ids[0], skip_special_tokens=True)!r}\n")
