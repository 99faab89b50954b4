"""The ground: types, errors, tables, the cache, the identity of models; knows no model."""
