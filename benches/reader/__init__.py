"""What `bench_reader` needs: databases made on the spot, the reader, its peers, the disk."""
