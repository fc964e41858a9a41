// The objects of a server: who refers to them, which references are on their way, and by which
// names some are exposed.
//
// Threads: thread-safe. What is dropped is returned, or destroyed outside of the mutex: objects
//          hold proxies of their own.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include <sidestep/detail/exposed.hpp>
#include <sidestep/detail/hosted.hpp>

namespace sidestep::inline v0::detail {

class ObjectTable {
  public:
    struct Found {
        std::uint64_t number = 0;
        std::shared_ptr<Hosted> object;
        std::shared_ptr<const Exposure> exposure;  // null: it is not exposed
    };
    using Dropped = std::vector<std::shared_ptr<Hosted>>;
    // References of one client that are on their way, at most.
    static constexpr std::size_t kMostTickets = 65536;

    // A client may have references from now on, and until remove_client(): all others are refused.
    void add_client(std::uint64_t client);
    Dropped remove_client(std::uint64_t client);

    // The first reference is the client's.
    std::uint64_t add(std::uint64_t client, std::shared_ptr<Hosted> object);
    // Throws NoSuchObject.
    Found find(std::uint64_t object);
    void pin(std::uint64_t client, std::uint64_t object, std::uint64_t ticket);
    void claim(std::uint64_t client, std::uint64_t object, std::uint64_t ticket);
    void release(std::uint64_t client, std::uint64_t object);

    // It stays for ever. Returns its number.
    std::uint64_t keep(std::shared_ptr<Hosted> object);
    // So does this. Throws std::logic_error for a name that is taken.
    void expose(Exposure exposure, std::shared_ptr<Hosted> object);
    // A reference to it for the client. Throws NotExposed, also if it is of another type.
    Found get(std::uint64_t client, const std::string& name, const std::string& type);

    Dropped all();
    std::vector<Found> list();
    // At the server's end; null: there was none left.
    std::shared_ptr<Hosted> take_any();

  private:
    struct Entry {
        std::shared_ptr<Hosted> object;
        std::uint64_t references = 0;
        std::shared_ptr<const Exposure> exposure;
    };
    struct Ticket {
        std::uint64_t object;
        std::uint64_t client;  // whose end ends it
    };
    struct Holdings {
        std::map<std::uint64_t, std::uint64_t> references;  // object -> how many
        std::size_t tickets = 0;
    };
    Entry& entry_of(std::uint64_t object);
    Holdings& holdings_of(std::uint64_t client);
    std::shared_ptr<Hosted> drop(std::uint64_t object, std::uint64_t count);

    std::mutex mutex_;
    // Guarded by mutex_.
    std::unordered_map<std::uint64_t, Entry> objects_;
    std::unordered_map<std::uint64_t, Ticket> tickets_;
    std::unordered_map<std::uint64_t, Holdings> clients_;
    std::map<std::string, std::uint64_t> names_;
    std::uint64_t last_object_ = 0;
};

}  // namespace sidestep::detail
