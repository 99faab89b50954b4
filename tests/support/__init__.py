"""What tests share: tiny models of every family, toy data, made-up journals and benches."""
