-- Pass through: what it costs to move every bid.
SELECT auction, bidder, price, date_time, extra FROM bid
