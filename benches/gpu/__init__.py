"""All that is measured on a GPU machine without network, in stages of less than ten minutes."""
