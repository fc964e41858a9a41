// Global objects that are made after those of the files before this one.
#include <map>
#include <string>

#include "start_methods.hpp"

namespace {

std::map<std::string, int>& entries() {
    static std::map<std::string, int> map;
    return map;
}
struct Entry {
    explicit Entry(const char* name) { entries()[name] = 1; }
};
const Entry one("one"), two("two");

}  // namespace

int count_entries() { return static_cast<int>(entries().size()); }
