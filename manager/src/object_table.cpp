#include "object_table.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>
#include <utility>

#include <sidestep/actor_lost.hpp>

#include "text/demangle.hpp"

namespace sidestep::inline v0::detail {

void ObjectTable::add_client(std::uint64_t client) {
    std::lock_guard lock(mutex_);
    clients_.try_emplace(client);
}

ObjectTable::Dropped ObjectTable::remove_client(std::uint64_t client) {
    Dropped dropped;
    std::lock_guard lock(mutex_);
    auto found = clients_.find(client);
    if (found == clients_.end()) return dropped;
    dropped.reserve(found->second.references.size() + found->second.tickets);  // or nothing is done
    for (auto [object, count] : found->second.references) dropped.push_back(drop(object, count));
    clients_.erase(found);
    std::erase_if(tickets_, [&](const auto& ticket) {
        if (ticket.second.client != client) return false;
        dropped.push_back(drop(ticket.second.object, 1));
        return true;
    });
    return dropped;
}

ObjectTable::Entry& ObjectTable::entry_of(std::uint64_t object) {
    auto found = objects_.find(object);
    if (found != objects_.end()) return found->second;
    throw NoSuchObject(fmt::format(
        "there is no object {} at this server (any more): nobody had a proxy of it when it was "
        "asked for. Keep one until the receiver of a copy has used it",
        object));
}

ObjectTable::Holdings& ObjectTable::holdings_of(std::uint64_t client) {
    auto found = clients_.find(client);
    if (found == clients_.end()) throw std::runtime_error("the client is gone");
    return found->second;
}

std::uint64_t ObjectTable::add(std::uint64_t client, std::shared_ptr<Hosted> object) {
    std::lock_guard lock(mutex_);
    Holdings& holdings = holdings_of(client);
    const std::uint64_t number = ++last_object_;
    objects_.emplace(number, Entry{std::move(object), 1, nullptr});
    ++holdings.references[number];
    return number;
}

std::uint64_t ObjectTable::keep(std::shared_ptr<Hosted> object) {
    std::lock_guard lock(mutex_);
    objects_.emplace(++last_object_, Entry{std::move(object), 1, nullptr});
    return last_object_;
}

ObjectTable::Found ObjectTable::find(std::uint64_t object) {
    std::lock_guard lock(mutex_);
    Entry& entry = entry_of(object);
    return {object, entry.object, entry.exposure};
}

void ObjectTable::pin(std::uint64_t client, std::uint64_t object, std::uint64_t ticket) {
    std::lock_guard lock(mutex_);
    Entry& entry = entry_of(object);
    Holdings& holdings = holdings_of(client);
    if (holdings.tickets >= kMostTickets)
        throw std::runtime_error(fmt::format(
            "{} references of this client are on their way, and nobody takes them; send "
            "no more proxies before some have arrived",
            holdings.tickets));
    if (!tickets_.emplace(ticket, Ticket{object, client}).second)
        throw std::invalid_argument("this ticket is in use");
    ++holdings.tickets;
    ++entry.references;
}

// A ticket's reference becomes the client's. Of an object that is gone there is none: its calls
// will say so.
void ObjectTable::claim(std::uint64_t client, std::uint64_t object, std::uint64_t ticket) {
    std::lock_guard lock(mutex_);
    auto found = objects_.find(object);
    auto claimer = clients_.find(client);
    if (found == objects_.end() || claimer == clients_.end()) return;
    ++claimer->second.references[object];
    auto pinned = tickets_.find(ticket);
    if (pinned == tickets_.end() || pinned->second.object != object) {
        ++found->second.references;
        return;
    }
    auto sender = clients_.find(pinned->second.client);
    if (sender != clients_.end()) --sender->second.tickets;
    tickets_.erase(pinned);
}

void ObjectTable::release(std::uint64_t client, std::uint64_t object) {
    std::shared_ptr<Hosted> dropped;  // destroyed outside of the mutex
    std::lock_guard lock(mutex_);
    auto holder = clients_.find(client);
    if (holder == clients_.end()) return;
    auto held = holder->second.references.find(object);
    if (held == holder->second.references.end()) return;
    if (--held->second == 0) holder->second.references.erase(held);
    dropped = drop(object, 1);
}

// With the mutex held.
std::shared_ptr<Hosted> ObjectTable::drop(std::uint64_t object, std::uint64_t count) {
    auto found = objects_.find(object);
    if (found == objects_.end()) return nullptr;
    found->second.references -= std::min(count, found->second.references);
    if (found->second.references > 0) return nullptr;
    std::shared_ptr<Hosted> last = std::move(found->second.object);
    objects_.erase(found);
    return last;
}

void ObjectTable::expose(Exposure exposure, std::shared_ptr<Hosted> object) {
    auto shared = std::make_shared<const Exposure>(std::move(exposure));
    std::lock_guard lock(mutex_);
    if (names_.count(shared->name) > 0)
        throw std::logic_error(fmt::format(
            "there is an exposed object \"{}\" already: take another name", shared->name));
    const std::uint64_t number = ++last_object_;
    names_.emplace(shared->name, number);
    objects_.emplace(number, Entry{std::move(object), 1, shared});
}

ObjectTable::Found ObjectTable::get(std::uint64_t client, const std::string& name,
                                    const std::string& type) {
    std::lock_guard lock(mutex_);
    auto named = names_.find(name);
    if (named == names_.end()) {
        std::vector<std::string> names;
        for (const auto& [known, number] : names_) names.push_back(fmt::format("\"{}\"", known));
        throw NotExposed(fmt::format("the object \"{}\"", name.substr(0, 200)), "this server",
                         std::move(names));
    }
    Entry& entry = entry_of(named->second);
    if (type != entry.exposure->type)
        throw NotExposed("another type", fmt::format("the object \"{}\"", name),
                         {demangle(entry.exposure->type)});
    ++holdings_of(client).references[named->second];
    ++entry.references;
    return {named->second, entry.object, entry.exposure};
}

ObjectTable::Dropped ObjectTable::all() {
    Dropped all;
    std::lock_guard lock(mutex_);
    for (auto& [number, entry] : objects_) all.push_back(entry.object);
    return all;
}

std::vector<ObjectTable::Found> ObjectTable::list() {
    std::vector<Found> all;
    std::lock_guard lock(mutex_);
    for (auto& [number, entry] : objects_) all.push_back({number, entry.object, entry.exposure});
    return all;
}

std::shared_ptr<Hosted> ObjectTable::take_any() {
    std::lock_guard lock(mutex_);
    if (objects_.empty()) return nullptr;
    std::shared_ptr<Hosted> object = std::move(objects_.begin()->second.object);
    objects_.erase(objects_.begin());
    return object;
}

}  // namespace sidestep::detail
