// Writes the call of a task whose arguments are numbers. Internal.
#pragma once

#include <type_traits>

#include <sidestep/task.hpp>

namespace sidestep::inline v0::detail {

// What an OutputArchive writes, for numbers and what is made of them: it keeps no tables of what it
// has met, as cereal's archives do, which cost more than a small task.
class NumberWriter {
  public:
    explicit NumberWriter(OutputBuffer& buffer) : buffer_(buffer) {}
    template <class... T>
    void operator()(const T&... values) {
        (put(values), ...);
    }

  private:
    template <class T>
    void put(const T& value) {
        if constexpr (std::is_arithmetic_v<T>)
            buffer_.write(&value, sizeof value);
        else  // a place in the program
            const_cast<T&>(value).serialize(*this);
    }
    OutputBuffer& buffer_;
};
// A call of f with these can be written so.
template <class F, class... Args>
inline constexpr bool kIsOfNumbers = (CodePointer<F> ||
                                      Captureless<F>)&&(std::is_arithmetic_v<Args>&&...);
template <class F, class... Args>
void save_numbers(OutputBuffer& buffer, const F& f, const Args&... args) {
    NumberWriter writer(buffer);
    if constexpr (CodePointer<F>) writer(locate_code(f));
    writer(args...);
}

}  // namespace sidestep::detail
