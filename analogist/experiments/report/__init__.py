"""What is shown of a study: report, plots and contact sheet."""
