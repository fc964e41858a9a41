// A pipeline: three stages, several processes in each but the last, and no stage knows how many
// are in the one before. Each process that puts into a queue holds a producer of it; the queue ends
// when the last of them has left, be it killed.
#include <cctype>
#include <cstdio>
#include <string>
#include <vector>

#include <sidestep/process.hpp>
#include <sidestep/queue.hpp>
namespace mp = sidestep;

using Lines = mp::Queue<std::string>;
using Counts = mp::Queue<std::size_t>;

void produce(Lines::Producer out, int reader) {
    for (int i = 0; i < 100; ++i)
        out.put("line " + std::to_string(i) + " of reader " + std::to_string(reader));
}

std::size_t count_digits(const std::string& line) {
    std::size_t digits = 0;
    for (char c : line) digits += std::isdigit(static_cast<unsigned char>(c)) != 0;
    return digits;
}

void parse(Lines in, Counts::Producer out) {
    try {
        for (;;) out.put(count_digits(in.get()));
    } catch (const mp::QueueShutDown&) {  // all readers are through, and their lines are taken
    }
}

int main() {
    mp::init();
    Lines lines(16);  // bounded: who is faster waits
    Counts counts(16);
    std::vector<mp::Process> stages;
    for (int i = 0; i < 2; ++i) stages.emplace_back(produce, lines.producer(), i);
    for (int i = 0; i < 3; ++i) stages.emplace_back(parse, lines, counts.producer());
    for (mp::Process& process : stages) process.start();  // each producer is in its process now

    std::size_t seen = 0, digits = 0;
    try {
        for (;; ++seen) digits += counts.get();
    } catch (const mp::QueueShutDown&) {
    }
    std::printf("%zu lines, %zu digits\n", seen, digits);  // 200 lines, 580 digits
    for (mp::Process& process : stages) process.join();
}
