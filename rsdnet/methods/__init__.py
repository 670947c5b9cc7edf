"""Self-supervised methods: loss, target and forward over two views."""
