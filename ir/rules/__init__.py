"""What is known of operators, as data: one small table for each question, keyed by (domain, op type)."""
