"""From results to pages: the paper's numbers, figures, tables, judged claims, the review form, the book."""
