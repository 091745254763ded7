"""What the papers ask and leave open: one file a question, its runs, and what their rows say."""
