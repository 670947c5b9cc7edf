"""What `bench_reader` needs: databases made on the spot, the reader, its peers, this disk, and processes of their own."""
