"""Number formats: Q/DQ pairs around what runs in fewer bits, weights stored as integers."""
