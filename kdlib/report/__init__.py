"""From runs to what a reader sees: tables, rankings, findings, words, figures and pages."""
