// Which band each channel of each view shows, and of which acquisition of a place: drawn from (seed, epoch,
// sample, view) and nothing else, so that the reader copies only the bands that are used. The bands are the
// same integers as rsdnet.kernels draws.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace rsdnet {

enum class Modality { kMsAndSar, kMs, kSar };

struct BandDraw {
    uint64_t seed;
    uint32_t epoch;
    uint32_t views;
    uint32_t channels;
    std::vector<int32_t> ms_pool;   // band ids, in the order of the pool
    std::vector<int32_t> sar_pool;  // band ids
    Modality modality;
    // Band ids that a sensor's views show, one a channel and in this order; empty: drawn from its pool.
    std::vector<int32_t> ms_view{}, sar_view{};
};

// Fills `bands`, shape (count, views, channels), with the band ids of `samples` (rows of the catalog).
// Pools that are drawn from must not be empty; a view of fixed bands has a band for each channel.
// `scratch` is memory to use.
void draw_bands(const BandDraw& draw, const uint32_t* samples, size_t count, int32_t* bands,
                std::vector<uint32_t>& scratch);

// Whether `next` holds each of its own positions once, and so is made of cycles.
bool is_permutation(const std::vector<uint32_t>& next);

// The sample that a view shows where views are of several acquisitions of one place: view 0 `sample` itself,
// any other one of the rest of its place, each as likely; the sample itself where it is alone.
// next: by sample, the next one of its place, in a cycle. number: the sample's own, for the draws.
uint32_t draw_partner(const std::vector<uint32_t>& next, uint64_t seed, uint32_t epoch, uint32_t number,
                      uint32_t sample, uint32_t view);

}  // namespace rsdnet
