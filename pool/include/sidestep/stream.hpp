// Stream: the results of imap and imap_unordered, an input range that is pulled.
//
//     for (const Row& row : pool.imap(parse, lines)) use(row);
//
// Items are taken from the input only as the stream is advanced, and no more than the window are
// between input and consumer, however long the input is. Leaving the loop early cancels what no
// worker has begun.
//
// An input may pause, or wait for the results of what it gave before: results are handed over as
// they are there, and items are sent off within a millisecond. So an input that is neither a
// container nor a span nor an iota is pulled by a thread of the stream, in turn with the consumer:
// while that waits in the stream, or beside it as long as one item takes more than a millisecond.
// Leaving the loop early waits for that item. (map() and starmap() pull in the calling thread.)
//
// Results that make items: the input may grow while it is passed through.
//
//     auto pages = pool.imap_unordered(fetch, std::vector{start});
//     for (const Page& page : pages)
//         for (const std::string& link : page.links) pages.add(link);
//
// Besides the loop it has outcomes() and next_for() (outcome.hpp); cancel(), which ends it here:
// what waits is taken back, what runs is stopped; ended(): nothing more comes; and output(): what
// the chunk of the item that came last wrote to stdout and stderr (task_output.hpp).
//
// Errors: advancing to an item that failed throws its error, and the stream can go on: catch inside
//         the loop is not possible, so use outcomes() to see each item's value or error. An item
//         whose `serialize` throws, on either side, or for which there is no room, is that item's
//         error; so is a result that cannot be read back. An input iterator that throws is the
//         error of the item it stood for, and ends the input.
// The pool's end: a stream that was made before close() goes on until join() (or ~Pool) finds
//         nothing under way: a map() that runs is waited for, a stream that nobody reads is not.
//         After terminate() nothing more is begun. When the pool takes no more, what was under way
//         comes first; then come the items that were refused, with the reason (CancelledError after
//         terminate(), BrokenPool, or std::logic_error), and that is the end of the stream.
// Ownership: a Stream refers to a range that was passed as an lvalue, and owns one that was moved
//         in. It is moved, not copied, before its first use. It may outlive its pool.
// Threads: one thread.
#pragma once

#include <ranges>
#include <type_traits>

#include <sidestep/detail/pool_chunks.hpp>
#include <sidestep/detail/stored.hpp>
#include <sidestep/detail/stream_engine.hpp>

namespace sidestep::inline v0 {

// Range: a reference for a range that was passed as an lvalue, else the range's type.
template <class F, class Range, bool kSpread>
using Stream = detail::StreamEngine<
    detail::PoolChunks<
        kSpread, F,
        detail::StoredItem<kSpread, std::ranges::range_value_t<std::remove_reference_t<Range>>>>,
    Range>;

}  // namespace sidestep
