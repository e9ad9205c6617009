"""Pages that need no other file and no network: one style, tables, and charts as inline SVG, shared by all reports."""
