"""An old door: `README.md` of folders exported before `trainables.load` names it."""

from trainables.bench.models.nonuniform import load_exact as load_exact
